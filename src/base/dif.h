/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Protection information (PI): what a block's metadata says of its data, so that a fault on the way
 * is noticed. A guard (a checksum), an application tag and a reference tag (which block it is), as
 * SBC-4 and the NVM command set 1.0c, 5.2, have them. Pure, any thread.
 *
 *            16-bit guard       32-bit guard                64-bit guard
 *   bytes    8                  16                          16
 *   guard    CRC-16 T10, 2      CRC-32C, 4                  CRC-64 NVMe, 8
 *   app tag  2                  2                           2
 *   ref tag  4                  10: 2 of storage tag, 8     6
 * All are big-endian. The storage tag is 0.
 *
 * The guard covers the data, and the metadata before the PI where the PI is last. Reference tags of
 * types 1 and 2 count up block by block, cut to their size; those of type 3 are the application's.
 * Escapes: no check at all where the application tag is all ones (types 1, 2), or it and the
 * reference tag (type 3).
 */
#ifndef BASE_DIF_H
#define BASE_DIF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"

enum dif_pi_format { DIF_PI_16, DIF_PI_32, DIF_PI_64 };

#define DIF_TYPE_MAX 3
#define DIF_MD_MAX 128 /* bytes of metadata a block may have */

#define DIF_CHECK_GUARD 0x1
#define DIF_CHECK_APP 0x2
#define DIF_CHECK_REF 0x4
/* What bdevs of that type check: nobody tells the core which application tag to expect. */
#define DIF_CHECK_DEFAULT(type) \
	((type) == 0 ? 0u : (type) == 3 ? DIF_CHECK_GUARD : DIF_CHECK_GUARD | DIF_CHECK_REF)

/* How blocks are protected. Filled by dif_init(); app_tag and app_mask may be changed. */
struct dif {
	uint32_t block_bytes;
	uint32_t md_bytes;
	uint32_t pi_offset; /* in md */
	uint8_t pi_bytes;
	uint8_t type;   /* 1 to 3 */
	uint8_t format; /* enum dif_pi_format */
	uint32_t check; /* DIF_CHECK_... */
	uint16_t app_tag; /* generated, and expected under the mask when it is checked */
	uint16_t app_mask;
};

/* 0; -EINVAL: type, format, or sizes that do not go together. head: the PI is first in md. */
int dif_init(struct dif *ret_dif, uint32_t block_bytes, uint32_t md_bytes, unsigned type,
	     unsigned format, bool head, uint32_t check, struct err *err);

/* Blocks, and their metadata: in a list of its own, or with md NULL behind each block in iov. */
struct dif_list {
	const struct iovec *iov;
	int iovcnt;
	const struct iovec *md;
	int mdcnt;
};

enum dif_tag { DIF_GUARD, DIF_APP_TAG, DIF_REF_TAG };

struct dif_error {
	uint64_t block; /* counted from the first of the list */
	enum dif_tag tag;
	uint64_t expected;
	uint64_t actual;
};

const char *dif_tag_name(enum dif_tag tag); /* "guard", "application tag", "reference tag" */

/*
 * All three take lists that are long enough for num_blocks, which the caller has checked, and the
 * reference tag of the first block (types 1 and 2).
 */

/* Writes the PI; other metadata stays. Tags of type 3 are all zero. */
void dif_generate(const struct dif *dif, const struct dif_list *list, uint64_t num_blocks,
		  uint64_t ref_tag);

/* 0; -EILSEQ, and *ret_error says what is wrong first. */
int dif_verify(const struct dif *dif, const struct dif_list *list, uint64_t num_blocks,
	       uint64_t ref_tag, struct dif_error *ret_error);

/* Moves reference tags of types 1 and 2 on by `delta` blocks, for what lies elsewhere on the bdev
 * below; the escaped ones stay. md: num_blocks * md_bytes. */
void dif_remap(const struct dif *dif, void *md, uint64_t num_blocks, uint64_t delta);

/* Metadata of blocks that nobody wrote: PI of ones, which escapes every check, the rest zero. */
void dif_fill_unwritten(const struct dif *dif, void *md, uint64_t num_blocks);

#endif
