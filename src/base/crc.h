/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Checksums of the standards: each takes what it returned for the bytes before, 0 at the beginning,
 * and returns the checksum of all so far. Pure, any thread. ISA-L computes crc_t10dif() and
 * crc_32c() where the build has it.
 */
#ifndef BASE_CRC_H
#define BASE_CRC_H

#include <stddef.h>
#include <stdint.h>

/* T10 protection information: polynomial 0x8bb7, most significant bit first (SBC-4). */
uint16_t crc_t10dif(uint16_t crc, const void *buf, size_t len);

/* Castagnoli: iSCSI (RFC 3720), NVMe, SPDK's super blocks. "123456789" gives 0xe3069283. */
uint32_t crc_32c(uint32_t crc, const void *buf, size_t len);

/* IEEE 802.3: zlib, GPT. "123456789" gives 0xcbf43926. */
uint32_t crc_32(uint32_t crc, const void *buf, size_t len);

/* NVMe: polynomial 0xad93d23594c93659, least significant bit first (NVM command set 1.0c,
 * 5.2.1.3.4). "123456789" gives 0xae8b14860a799888. */
uint64_t crc_64nvme(uint64_t crc, const void *buf, size_t len);

/* Without ISA-L, for builds that have none; here for tests. */
uint16_t crc_t10dif_plain(uint16_t crc, const void *buf, size_t len);
uint32_t crc_32c_plain(uint32_t crc, const void *buf, size_t len);

#endif
