/* SPDX-License-Identifier: BSD-3-Clause */
/* The split virtqueue, device side. Invariants: virtq.h. */
#include <errno.h>
#include <string.h>

#include "base/iov.h"
#include "virtio/guest.h"
#include "virtio/virtq.h"

void
virtq_init(struct virtq *vq, unsigned size, void *desc, void *avail, void *used, const struct memmap *map,
	   uint16_t base, bool event_idx, bool indirect)
{
	CHECK(size > 0 && size <= VIRTQ_SIZE_MAX && (size & (size - 1)) == 0);
	*vq = (struct virtq){
		.desc = desc,
		.avail = avail,
		.used = used,
		.map = map,
		.size = (uint16_t)size,
		.mask = (uint16_t)(size - 1),
		.last_avail = base,
		.event_idx = event_idx,
		.indirect = indirect,
	};
	vq->used_idx = guest_read_u16(&vq->used->idx);
	vq->published = vq->used_idx;
}

void
virtq_break(struct virtq *vq, const char *why)
{
	if (!vq->broken) {
		vq->broken = true;
		vq->broken_why = why;
	}
}

/* ---- Taking ---- */

/* Where a chain's descriptors are read from: the ring's own table or an indirect one. */
struct table {
	const uint8_t *direct; /* mapped, NULL when the table lies in pieces */
	uint64_t gpa;
	unsigned count;
};

/* Almost always the region that the last address was in. */
static inline uint8_t *
translate(struct virtq *vq, uint64_t gpa, uint64_t len)
{
	const struct memmap *map = vq->map;
	const struct memmap_region *r;
	int i;

	if (LIKELY(vq->region < map->count)) {
		r = &map->regions[vq->region];
		if (LIKELY(gpa - r->gpa < r->size && len <= r->size - (gpa - r->gpa))) {
			return r->hva + (gpa - r->gpa);
		}
	}
	i = memmap_find(map, gpa);
	if (i < 0) {
		return NULL;
	}
	r = &map->regions[i];
	vq->region = (uint32_t)i;
	return len <= r->size - (gpa - r->gpa) ? r->hva + (gpa - r->gpa) : NULL;
}

static int
read_desc(struct virtq *vq, const struct table *t, unsigned i, struct vring_desc *ret)
{
	struct iovec piece[2];
	unsigned count = 0;
	uint8_t copy[sizeof(*ret)];
	int rc;

	if (LIKELY(t->direct != NULL)) {
		*ret = guest_read_desc(t->direct + i * sizeof(*ret));
		return 0;
	}
	rc = memmap_iov(vq->map, t->gpa + i * sizeof(*ret), sizeof(*ret), piece, &count, ARRAY_SIZE(piece));
	if (rc != 0) {
		return rc;
	}
	iov_to_buf(piece, (int)count, 0, copy, sizeof(copy));
	*ret = guest_read_desc(copy);
	return 0;
}

/* virtio 1.2, 2.7.5.3: an indirect descriptor ends its chain, names a table, and no table is nested. */
static int
enter_indirect(struct virtq *vq, const struct vring_desc *d, bool nested, struct table *t)
{
	if (!vq->indirect || nested || (d->flags & VRING_DESC_F_NEXT) != 0 || d->len == 0 ||
	    d->len % sizeof(struct vring_desc) != 0) {
		return -EINVAL;
	}
	t->gpa = d->addr;
	t->count = d->len / sizeof(struct vring_desc);
	t->direct = translate(vq, d->addr, d->len);
	return 0;
}

static int
append(struct virtq *vq, const struct vring_desc *d, struct virtq_chain *c, struct iovec *iov, unsigned max)
{
	bool in = (d->flags & VRING_DESC_F_WRITE) != 0;
	unsigned count = c->out_count + c->in_count;
	unsigned before = count;
	uint8_t *hva;

	if (!in && c->in_count > 0) {
		return -EINVAL;
	}
	if (UNLIKELY(d->len == 0)) {
		return 0;
	}
	hva = translate(vq, d->addr, d->len);
	if (LIKELY(hva != NULL && count < max)) {
		iov[count++] = (struct iovec){hva, d->len};
	} else {
		int rc = memmap_iov(vq->map, d->addr, d->len, iov, &count, max);

		if (rc != 0) {
			return rc;
		}
	}
	if (in) {
		c->in_count += count - before;
		c->in_bytes += d->len;
	} else {
		c->out_count += count - before;
		c->out_bytes += d->len;
	}
	return 0;
}

int
virtq_take(struct virtq *vq, struct virtq_chain *ret, struct iovec *iov, unsigned max)
{
	unsigned limit = MAX((unsigned)vq->size, (unsigned)VIRTQ_CHAIN_MAX);
	struct table t = {.direct = (const uint8_t *)vq->desc, .count = vq->size};
	bool nested = false;
	unsigned i;

	*ret = (struct virtq_chain){.head = guest_read_u16(&vq->avail->ring[vq->last_avail & vq->mask])};
	vq->last_avail++;
	if (UNLIKELY(ret->head >= vq->size)) {
		virtq_break(vq, "descriptor head past the end of the table");
		return -EINVAL;
	}
	i = ret->head;
	for (unsigned steps = 0; steps < limit; steps++) {
		struct vring_desc d;
		int rc = read_desc(vq, &t, i, &d);

		if (rc == 0 && UNLIKELY((d.flags & VRING_DESC_F_INDIRECT) != 0)) {
			rc = enter_indirect(vq, &d, nested, &t);
			nested = true;
			i = 0;
			if (rc == 0) {
				continue;
			}
		}
		if (rc == 0) {
			rc = append(vq, &d, ret, iov, max);
		}
		if (UNLIKELY(rc != 0)) {
			return rc;
		}
		if ((d.flags & VRING_DESC_F_NEXT) == 0) {
			return 0;
		}
		i = d.next;
		if (UNLIKELY(i >= t.count)) {
			return -EINVAL;
		}
	}
	return -EINVAL;
}

/* ---- Giving back ---- */

void
virtq_complete(struct virtq *vq, uint16_t head, uint32_t bytes)
{
	struct vring_used_elem *e = &vq->used->ring[vq->used_idx & vq->mask];

	e->id = head;
	e->len = bytes;
	vq->used_idx++;
}

static bool
wants_call(struct virtq *vq, uint16_t old)
{
	if (vq->event_idx) {
		return vring_need_event(guest_read_u16(&vq->avail->ring[vq->size]), vq->used_idx, old);
	}
	return (guest_read_u16(&vq->avail->flags) & VRING_AVAIL_F_NO_INTERRUPT) == 0;
}

bool
virtq_publish(struct virtq *vq)
{
	uint16_t old = vq->published;

	if (vq->used_idx == old) {
		return false;
	}
	/* Pairs with the driver's acquire of used->idx. */
	__atomic_store_n(&vq->used->idx, vq->used_idx, __ATOMIC_RELEASE);
	vq->published = vq->used_idx;
	vq->publishes++;
	/* Pairs with the driver's barrier between asking to be called and looking at used->idx again. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (!wants_call(vq, old)) {
		return false;
	}
	vq->calls_wanted++;
	return true;
}

/* ---- Kicks ---- */

bool
virtq_enable_kick(struct virtq *vq)
{
	if (vq->broken) {
		return false;
	}
	if (vq->event_idx) {
		guest_write_u16(&vq->used->ring[vq->size], vq->last_avail);
	} else {
		guest_write_u16(&vq->used->flags, 0);
	}
	/* Pairs with the driver's barrier between publishing avail->idx and looking whether we want a kick. */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return virtq_pending(vq) > 0;
}

void
virtq_disable_kick(struct virtq *vq)
{
	/* With event indexes a stale one is as good as none: it is crossed once in 65,536 chains. */
	if (!vq->event_idx) {
		guest_write_u16(&vq->used->flags, VRING_USED_F_NO_NOTIFY);
	}
}
