/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The device side of a split ring against a driver written here by hand, honest and hostile.
 * Guest memory is two regions that touch in guest addresses and lie apart here.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/iov.h"
#include "virtio/guest.h"
#include "virtio/virtq.h"

#define SIZE 8u
#define REGION 0x10000u
#define GPA_A 0x100000u
#define GPA_B (GPA_A + REGION)
#define TABLE (GPA_A + 0x8000u)

struct guest {
	struct memmap *map;
	uint8_t *a, *b;
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	struct virtq vq;
	struct iovec iov[VIRTQ_CHAIN_MAX];
	struct virtq_chain chain;
};

static int
setup(void **state)
{
	struct guest *g = calloc(1, sizeof(*g));

	g->map = calloc(1, sizeof(*g->map) + 2 * sizeof(struct memmap_region));
	g->a = aligned_alloc(4096, REGION);
	g->b = aligned_alloc(4096, REGION);
	memset(g->a, 0, REGION);
	memset(g->b, 0, REGION);
	g->map->count = 2;
	g->map->regions[0] = (struct memmap_region){.gpa = GPA_A, .size = REGION, .hva = g->a};
	g->map->regions[1] = (struct memmap_region){.gpa = GPA_B, .size = REGION, .hva = g->b};
	g->desc = (struct vring_desc *)g->a;
	g->avail = (struct vring_avail *)(g->a + 0x1000);
	g->used = (struct vring_used *)(g->a + 0x2000);
	virtq_init(&g->vq, SIZE, g->desc, g->avail, g->used, g->map, 0, false, true);
	*state = g;
	return 0;
}

static int
teardown(void **state)
{
	struct guest *g = *state;

	free(g->a);
	free(g->b);
	free(g->map);
	free(g);
	return 0;
}

static void
put(struct guest *g, unsigned i, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
	g->desc[i] = (struct vring_desc){.addr = addr, .len = len, .flags = flags, .next = next};
}

static void
offer(struct guest *g, uint16_t head)
{
	g->avail->ring[g->avail->idx % SIZE] = head;
	g->avail->idx++;
}

static int
take(struct guest *g)
{
	assert_int_equal(virtq_pending(&g->vq), 1);
	return virtq_take(&g->vq, &g->chain, g->iov, VIRTQ_CHAIN_MAX);
}

static void
test_chain(void **state)
{
	struct guest *g = *state;

	put(g, 3, GPA_A + 0x5000, 16, VRING_DESC_F_NEXT, 1);
	put(g, 1, GPA_B + 0x100, 4096, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 5);
	put(g, 5, GPA_A + 0x6000, 1, VRING_DESC_F_WRITE, 0);
	offer(g, 3);
	assert_int_equal(take(g), 0);
	assert_int_equal(g->chain.head, 3);
	assert_int_equal(g->chain.out_count, 1);
	assert_int_equal(g->chain.in_count, 2);
	assert_int_equal(g->chain.out_bytes, 16);
	assert_int_equal(g->chain.in_bytes, 4097);
	assert_ptr_equal(g->iov[0].iov_base, g->a + 0x5000);
	assert_ptr_equal(g->iov[1].iov_base, g->b + 0x100);
	assert_ptr_equal(g->iov[2].iov_base, g->a + 0x6000);
	assert_int_equal(virtq_pending(&g->vq), 0);
}

/* CVE-2018-1059: what touches in guest addresses does not touch here. */
static void
test_spanning_two_regions(void **state)
{
	struct guest *g = *state;

	put(g, 0, GPA_B - 100, 300, 0, 0);
	offer(g, 0);
	assert_int_equal(take(g), 0);
	assert_int_equal(g->chain.out_count, 2);
	assert_ptr_equal(g->iov[0].iov_base, g->a + REGION - 100);
	assert_int_equal(g->iov[0].iov_len, 100);
	assert_ptr_equal(g->iov[1].iov_base, g->b);
	assert_int_equal(g->iov[1].iov_len, 200);
}

static void
test_outside_guest_memory(void **state)
{
	static const struct { uint64_t addr; uint32_t len; } bad[] = {
		{GPA_B + REGION - 1, 2}, {GPA_B + REGION, 1}, {GPA_A - 1, 1}, {GPA_A - 1, 2}, {0, 16},
		{UINT64_MAX, 1}, {UINT64_MAX - 3, 8}, {GPA_A, UINT32_MAX},
	};
	struct guest *g = *state;

	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		put(g, 2, bad[i].addr, bad[i].len, 0, 0);
		offer(g, 2);
		assert_int_equal(take(g), -EFAULT);
		assert_int_equal(g->chain.head, 2);
		assert_false(g->vq.broken);
	}
}

static void
test_loops(void **state)
{
	struct guest *g = *state;

	put(g, 0, GPA_A + 0x5000, 16, VRING_DESC_F_NEXT, 0);
	offer(g, 0);
	assert_int_equal(take(g), -EINVAL);
	put(g, 0, GPA_A + 0x5000, 16, VRING_DESC_F_NEXT, 1);
	put(g, 1, GPA_A + 0x5000, 16, VRING_DESC_F_NEXT, 0);
	offer(g, 0);
	assert_int_equal(take(g), -EINVAL);
	assert_false(g->vq.broken);
}

static void
test_next_out_of_range(void **state)
{
	struct guest *g = *state;

	put(g, 0, GPA_A + 0x5000, 16, VRING_DESC_F_NEXT, SIZE);
	offer(g, 0);
	assert_int_equal(take(g), -EINVAL);
	put(g, 0, GPA_A + 0x5000, 16, VRING_DESC_F_NEXT, 0xffff);
	offer(g, 0);
	assert_int_equal(take(g), -EINVAL);
}

static void
test_readable_after_writable(void **state)
{
	struct guest *g = *state;

	put(g, 0, GPA_A + 0x5000, 16, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 1);
	put(g, 1, GPA_A + 0x6000, 16, 0, 0);
	offer(g, 0);
	assert_int_equal(take(g), -EINVAL);
}

static void
test_head_out_of_range(void **state)
{
	struct guest *g = *state;

	offer(g, SIZE);
	assert_int_equal(take(g), -EINVAL);
	assert_true(g->vq.broken);
	assert_non_null(g->vq.broken_why);
	offer(g, 0);
	assert_int_equal(virtq_pending(&g->vq), 0);
	assert_false(virtq_enable_kick(&g->vq));
}

static void
test_index_too_far_ahead(void **state)
{
	struct guest *g = *state;

	g->avail->idx = SIZE;
	assert_int_equal(virtq_pending(&g->vq), SIZE);
	g->avail->idx = SIZE + 1;
	assert_int_equal(virtq_pending(&g->vq), 0);
	assert_true(g->vq.broken);
}

static struct vring_desc *
indirect(struct guest *g, uint32_t len, uint16_t flags)
{
	put(g, 0, TABLE, len, (uint16_t)(VRING_DESC_F_INDIRECT | flags), 1);
	put(g, 1, GPA_A + 0x5000, 16, 0, 0);
	offer(g, 0);
	return (struct vring_desc *)(g->a + (TABLE - GPA_A));
}

static void
test_indirect(void **state)
{
	struct guest *g = *state;
	struct vring_desc *t = indirect(g, 3 * 16, 0);

	t[0] = (struct vring_desc){GPA_A + 0x5000, 16, VRING_DESC_F_NEXT, 2};
	t[2] = (struct vring_desc){GPA_A + 0x7000, 512, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 1};
	t[1] = (struct vring_desc){GPA_A + 0x6000, 1, VRING_DESC_F_WRITE, 0};
	assert_int_equal(take(g), 0);
	assert_int_equal(g->chain.out_count, 1);
	assert_int_equal(g->chain.in_bytes, 513);
}

/* A table that lies in two regions, each part mapped elsewhere. */
static void
test_indirect_table_in_pieces(void **state)
{
	struct guest *g = *state;
	struct vring_desc d[2] = {{GPA_A + 0x5000, 16, VRING_DESC_F_NEXT, 1}, {GPA_A + 0x6000, 1, VRING_DESC_F_WRITE, 0}};

	put(g, 0, GPA_B - 24, sizeof(d), VRING_DESC_F_INDIRECT, 0);
	memcpy(g->a + REGION - 24, d, 24);
	memcpy(g->b, (uint8_t *)d + 24, 8);
	offer(g, 0);
	assert_int_equal(take(g), 0);
	assert_int_equal(g->chain.out_bytes, 16);
	assert_int_equal(g->chain.in_bytes, 1);
	assert_ptr_equal(g->iov[1].iov_base, g->a + 0x6000);
}

static void
test_indirect_malformed(void **state)
{
	struct guest *g = *state;
	struct vring_desc *t;

	indirect(g, 0, 0);
	assert_int_equal(take(g), -EINVAL);
	indirect(g, 15, 0);
	assert_int_equal(take(g), -EINVAL);
	indirect(g, 24, 0);
	assert_int_equal(take(g), -EINVAL);
	/* An indirect descriptor ends its chain. */
	t = indirect(g, 16, VRING_DESC_F_NEXT);
	t[0] = (struct vring_desc){GPA_A + 0x5000, 16, 0, 0};
	assert_int_equal(take(g), -EINVAL);
	/* Nested. */
	t = indirect(g, 16, 0);
	t[0] = (struct vring_desc){TABLE + 16, 16, VRING_DESC_F_INDIRECT, 0};
	t[1] = (struct vring_desc){GPA_A + 0x5000, 16, 0, 0};
	assert_int_equal(take(g), -EINVAL);
	/* Next past the table though inside the ring's size. */
	t = indirect(g, 32, 0);
	t[0] = (struct vring_desc){GPA_A + 0x5000, 16, VRING_DESC_F_NEXT, 2};
	assert_int_equal(take(g), -EINVAL);
	/* Loop inside the table. */
	t[0] = (struct vring_desc){GPA_A + 0x5000, 16, VRING_DESC_F_NEXT, 0};
	indirect(g, 32, 0);
	assert_int_equal(take(g), -EINVAL);
	/* The table is no guest memory. */
	put(g, 0, GPA_B + REGION - 8, 16, VRING_DESC_F_INDIRECT, 0);
	offer(g, 0);
	assert_int_equal(take(g), -EFAULT);
	/* Not negotiated. */
	g->vq.indirect = false;
	t = indirect(g, 16, 0);
	t[0] = (struct vring_desc){GPA_A + 0x5000, 16, 0, 0};
	assert_int_equal(take(g), -EINVAL);
}

static void
test_chain_longer_than_room(void **state)
{
	struct guest *g = *state;
	struct vring_desc *t = indirect(g, 64 * 16, 0);
	struct virtq_chain c;

	for (unsigned i = 0; i < 64; i++) {
		t[i] = (struct vring_desc){GPA_A + 0x5000, 1, i < 63 ? VRING_DESC_F_NEXT : 0, (uint16_t)(i + 1)};
	}
	assert_int_equal(virtq_pending(&g->vq), 1);
	assert_int_equal(virtq_take(&g->vq, &c, g->iov, 63), -E2BIG);
	g->avail->idx--;
	g->vq.last_avail--;
	offer(g, 0);
	assert_int_equal(virtq_take(&g->vq, &c, g->iov, 64), 0);
	assert_int_equal(c.out_count, 64);
}

static void
test_used_and_wrap(void **state)
{
	struct guest *g = *state;

	for (unsigned n = 0; n < 70000; n++) {
		uint16_t head = (uint16_t)(n % SIZE);

		put(g, head, GPA_A + 0x5000, 16, 0, 0);
		offer(g, head);
		assert_int_equal(take(g), 0);
		virtq_complete(&g->vq, g->chain.head, n);
		assert_int_equal(g->used->idx, (uint16_t)n);
		assert_true(virtq_publish(&g->vq));
		assert_int_equal(g->used->idx, (uint16_t)(n + 1));
		assert_int_equal(g->used->ring[n % SIZE].id, head);
		assert_int_equal(g->used->ring[n % SIZE].len, n);
	}
	assert_false(virtq_publish(&g->vq));
}

static void
test_no_interrupt_flag(void **state)
{
	struct guest *g = *state;

	g->avail->flags = VRING_AVAIL_F_NO_INTERRUPT;
	virtq_complete(&g->vq, 0, 0);
	assert_false(virtq_publish(&g->vq));
	g->avail->flags = 0;
	virtq_complete(&g->vq, 0, 0);
	assert_true(virtq_publish(&g->vq));
}

static void
test_event_idx_calls(void **state)
{
	struct guest *g = *state;

	g->vq.event_idx = true;
	/* Called when used->idx moves past used_event, once. */
	g->avail->ring[SIZE] = 2;
	for (unsigned n = 0; n < 6; n++) {
		virtq_complete(&g->vq, 0, 0);
		assert_int_equal(virtq_publish(&g->vq), n == 2);
	}
	/* A batch that crosses it. */
	g->avail->ring[SIZE] = 7;
	for (unsigned n = 0; n < 4; n++) {
		virtq_complete(&g->vq, 0, 0);
	}
	assert_true(virtq_publish(&g->vq));
}

static void
test_kicks(void **state)
{
	struct guest *g = *state;

	virtq_disable_kick(&g->vq);
	assert_int_equal(g->used->flags, VRING_USED_F_NO_NOTIFY);
	assert_false(virtq_enable_kick(&g->vq));
	assert_int_equal(g->used->flags, 0);
	offer(g, 0);
	assert_true(virtq_enable_kick(&g->vq));
	g->vq.event_idx = true;
	g->vq.last_avail = 1;
	assert_false(virtq_enable_kick(&g->vq));
	assert_int_equal(guest_read_u16(&g->used->ring[SIZE]), 1);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_chain, setup, teardown),
		cmocka_unit_test_setup_teardown(test_spanning_two_regions, setup, teardown),
		cmocka_unit_test_setup_teardown(test_outside_guest_memory, setup, teardown),
		cmocka_unit_test_setup_teardown(test_loops, setup, teardown),
		cmocka_unit_test_setup_teardown(test_next_out_of_range, setup, teardown),
		cmocka_unit_test_setup_teardown(test_readable_after_writable, setup, teardown),
		cmocka_unit_test_setup_teardown(test_head_out_of_range, setup, teardown),
		cmocka_unit_test_setup_teardown(test_index_too_far_ahead, setup, teardown),
		cmocka_unit_test_setup_teardown(test_indirect, setup, teardown),
		cmocka_unit_test_setup_teardown(test_indirect_table_in_pieces, setup, teardown),
		cmocka_unit_test_setup_teardown(test_indirect_malformed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_chain_longer_than_room, setup, teardown),
		cmocka_unit_test_setup_teardown(test_used_and_wrap, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_interrupt_flag, setup, teardown),
		cmocka_unit_test_setup_teardown(test_event_idx_calls, setup, teardown),
		cmocka_unit_test_setup_teardown(test_kicks, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
