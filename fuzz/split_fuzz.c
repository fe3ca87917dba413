/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A split ring whose every byte comes from the fuzzer. The whole input is guest memory, at guest address 0, in two
 * mappings of their own so that a step past either end is seen; ring parameters come from its first bytes. Whatever is in
 * it, only bytes of guest memory are handed out, and each chain is handed out once.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "virtio/guest.h"
#include "virtio/virtq.h"

#define PAGE 4096u
#define TABLE_BYTES (16u * 64)

static uint64_t sink;

/* Reads every byte handed out, writes every writable one: the sanitizer is the judge. */
static void
touch(const struct virtq_chain *c, const struct iovec *iov)
{
	for (unsigned i = 0; i < c->out_count + c->in_count; i++) {
		uint8_t *p = iov[i].iov_base;

		for (size_t n = 0; n < iov[i].iov_len; n += 61) {
			sink += p[n];
		}
		sink += p[iov[i].iov_len - 1];
		if (i >= c->out_count) {
			memset(p, 0x5a, MIN(iov[i].iov_len, (size_t)64));
		}
	}
}

static void
run(struct virtq *vq)
{
	static struct iovec iov[VIRTQ_CHAIN_MAX];

	for (unsigned rounds = 0; rounds < 64 && virtq_pending(vq) > 0; rounds++) {
		struct virtq_chain c;
		unsigned max = rounds % 3 == 0 ? 4 : VIRTQ_CHAIN_MAX;
		int rc = virtq_take(vq, &c, iov, max);

		if (rc == 0) {
			CHECK(c.out_count + c.in_count <= max);
			touch(&c, iov);
		}
		if (vq->broken) {
			break;
		}
		CHECK(c.head < vq->size);
		virtq_complete(vq, c.head, (uint32_t)c.in_bytes);
		if (rounds % 4 == 3) {
			virtq_publish(vq);
			virtq_enable_kick(vq);
		}
	}
	virtq_publish(vq);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct memmap *map = calloc(1, sizeof(struct memmap) + 2 * sizeof(struct memmap_region));
	unsigned ring_size;
	uint8_t *low, *high;
	struct virtq vq;

	if (size < 4 || map == NULL) {
		free(map);
		return 0;
	}
	ring_size = 1u << (data[0] % 7);
	low = aligned_alloc(PAGE, PAGE);
	high = aligned_alloc(PAGE, PAGE);
	memset(low, 0, PAGE);
	memset(high, 0, PAGE);
	memcpy(low, data + 4, MIN(size - 4, (size_t)PAGE));
	if (size - 4 > PAGE) {
		memcpy(high, data + 4 + PAGE, MIN(size - 4 - PAGE, (size_t)PAGE));
	}
	map->count = 2;
	map->regions[0] = (struct memmap_region){.gpa = 0, .size = PAGE, .hva = low};
	map->regions[1] = (struct memmap_region){.gpa = PAGE, .size = PAGE, .hva = high};
	virtq_init(&vq, ring_size, low, low + TABLE_BYTES, low + TABLE_BYTES + 256, map, data[1], data[2] & 1,
		   !(data[2] & 2));
	run(&vq);
	free(low);
	free(high);
	free(map);
	return 0;
}
