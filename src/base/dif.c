/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Protection information. Blocks and metadata are walked by cursors; where the metadata of a block
 * is in one piece, as nearly always, it is used in place.
 */
#include "base/dif.h"

#include <endian.h>
#include <errno.h>
#include <string.h>

#include "base/check.h"
#include "base/crc.h"

struct pi {
	uint64_t guard;
	uint16_t app;
	uint64_t ref;
};

static const struct {
	uint8_t bytes;
	uint8_t guard_bytes;
	uint8_t ref_bits;
	uint32_t block_multiple;
	const char *name;
} formats[] = {
	[DIF_PI_16] = {8, 2, 32, 512, "16-bit"},
	[DIF_PI_32] = {16, 4, 64, 4096, "32-bit"},
	[DIF_PI_64] = {16, 8, 48, 4096, "64-bit"},
};

const char *
dif_tag_name(enum dif_tag tag)
{
	static const char *const names[] = {"guard", "application tag", "reference tag"};

	return names[tag];
}

int
dif_init(struct dif *ret_dif, uint32_t block_bytes, uint32_t md_bytes, unsigned type,
	 unsigned format, bool head, uint32_t check, struct err *err)
{
	if (type < 1 || type > DIF_TYPE_MAX) {
		return err_set(err, -EINVAL, "there is no protection information of type %u", type);
	}
	if (format >= ARRAY_SIZE(formats)) {
		return err_set(err, -EINVAL, "there is no format %u of protection information",
			       format);
	}
	if (md_bytes < formats[format].bytes || md_bytes > DIF_MD_MAX) {
		return err_set(err, -EINVAL,
			       "%u bytes of metadata: protection information with a %s guard takes "
			       "%u, and a block has at most %d",
			       md_bytes, formats[format].name, formats[format].bytes, DIF_MD_MAX);
	}
	if (block_bytes == 0 || block_bytes % formats[format].block_multiple != 0) {
		return err_set(err, -EINVAL,
			       "blocks of %u bytes: protection information with a %s guard is for "
			       "multiples of %u",
			       block_bytes, formats[format].name, formats[format].block_multiple);
	}
	*ret_dif = (struct dif){
		.block_bytes = block_bytes,
		.md_bytes = md_bytes,
		.pi_offset = head ? 0 : md_bytes - formats[format].bytes,
		.pi_bytes = formats[format].bytes,
		.type = (uint8_t)type,
		.format = (uint8_t)format,
		.check = check,
		.app_mask = 0xffff,
	};
	return 0;
}

/* ---- One block's ---- */

static uint64_t
ref_mask(const struct dif *dif)
{
	return UINT64_MAX >> (64 - formats[dif->format].ref_bits);
}

static uint64_t
load_be(const uint8_t *p, unsigned bytes)
{
	uint64_t value = 0;

	for (unsigned i = 0; i < bytes; i++) {
		value = value << 8 | p[i];
	}
	return value;
}

static void
store_be(uint8_t *p, unsigned bytes, uint64_t value)
{
	while (bytes-- > 0) {
		p[bytes] = (uint8_t)value;
		value >>= 8;
	}
}

static void
load_pi(const struct dif *dif, const uint8_t *p, struct pi *ret)
{
	unsigned guard_bytes = formats[dif->format].guard_bytes;
	unsigned ref_bytes = formats[dif->format].ref_bits / 8u;

	ret->guard = load_be(p, guard_bytes);
	ret->app = (uint16_t)load_be(p + guard_bytes, 2);
	ret->ref = load_be(p + dif->pi_bytes - ref_bytes, ref_bytes);
}

static void
store_pi(const struct dif *dif, uint8_t *p, const struct pi *pi)
{
	unsigned guard_bytes = formats[dif->format].guard_bytes;
	unsigned ref_bytes = formats[dif->format].ref_bits / 8u;

	memset(p, 0, dif->pi_bytes);
	store_be(p, guard_bytes, pi->guard);
	store_be(p + guard_bytes, 2, pi->app);
	store_be(p + dif->pi_bytes - ref_bytes, ref_bytes, pi->ref);
}

static uint64_t
checksum(const struct dif *dif, uint64_t crc, const void *p, size_t len)
{
	switch (dif->format) {
	case DIF_PI_16:
		return crc_t10dif((uint16_t)crc, p, len);
	case DIF_PI_32:
		return crc_32c((uint32_t)crc, p, len);
	default:
		return crc_64nvme(crc, p, len);
	}
}

static bool
escaped(const struct dif *dif, const struct pi *pi)
{
	return pi->app == 0xffff && (dif->type != 3 || pi->ref == ref_mask(dif));
}

/* ---- Walking ---- */

struct cursor {
	const struct iovec *iov; /* the entry it is in, or at the end of the one before */
	size_t offset;
};

/* The next bytes that follow one another, at most `want`. */
static uint8_t *
take(struct cursor *c, size_t want, size_t *ret_len)
{
	uint8_t *p;

	while (c->offset == c->iov->iov_len) {
		c->iov++;
		c->offset = 0;
	}
	p = (uint8_t *)c->iov->iov_base + c->offset;
	*ret_len = MIN(want, c->iov->iov_len - c->offset);
	c->offset += *ret_len;
	return p;
}

static void
copy(struct cursor c, uint8_t *buf, size_t len, bool to_list)
{
	while (len > 0) {
		size_t n;
		uint8_t *p = take(&c, len, &n);

		memcpy(to_list ? p : buf, to_list ? buf : p, n);
		buf += n;
		len -= n;
	}
}

static void
skip(struct cursor *c, size_t len)
{
	size_t n;

	for (; len > 0; len -= n) {
		take(c, len, &n);
	}
}

static uint64_t
guard_of(const struct dif *dif, struct cursor *data)
{
	uint64_t crc = 0;
	size_t n;

	for (size_t left = dif->block_bytes; left > 0; left -= n) {
		const uint8_t *p = take(data, left, &n);

		crc = checksum(dif, crc, p, n);
	}
	return crc;
}

/* Calls one(ctx, block, md, guard) for each; md may be changed. Until it returns an error. */
static int
walk(const struct dif *dif, const struct dif_list *list, uint64_t num_blocks, bool guards,
     int (*one)(void *ctx, uint64_t block, uint8_t *md, uint64_t guard), void *ctx)
{
	struct cursor data = {list->iov, 0}, own = {list->md, 0};
	struct cursor *md = list->md == NULL ? &data : &own;
	uint8_t copied[DIF_MD_MAX];

	for (uint64_t block = 0; block < num_blocks; block++) {
		uint64_t guard = 0;
		struct cursor at;
		uint8_t *p;
		size_t n;
		int rc;

		if (guards) {
			guard = guard_of(dif, &data);
		} else if (list->md == NULL) {
			skip(&data, dif->block_bytes);
		}
		at = *md;
		p = take(md, dif->md_bytes, &n);
		if (n < dif->md_bytes) {
			p = copied;
			copy(at, p, dif->md_bytes, false);
			skip(md, dif->md_bytes - n);
		}
		if (guards) {
			guard = checksum(dif, guard, p, dif->pi_offset);
		}
		rc = one(ctx, block, p, guard);
		if (rc != 0) {
			return rc;
		}
		if (p == copied) {
			copy(at, p, dif->md_bytes, true);
		}
	}
	return 0;
}

struct work {
	const struct dif *dif;
	uint64_t ref_tag;
	struct dif_error *error;
};

static int
generate_one(void *ctx, uint64_t block, uint8_t *md, uint64_t guard)
{
	const struct work *w = ctx;
	const struct dif *dif = w->dif;
	struct pi pi = {.guard = guard, .app = dif->app_tag};

	if (dif->type != 3) {
		pi.ref = (w->ref_tag + block) & ref_mask(dif);
	}
	store_pi(dif, md + dif->pi_offset, &pi);
	return 0;
}

void
dif_generate(const struct dif *dif, const struct dif_list *list, uint64_t num_blocks,
	     uint64_t ref_tag)
{
	struct work w = {.dif = dif, .ref_tag = ref_tag};

	walk(dif, list, num_blocks, true, generate_one, &w);
}

static int
wrong(struct work *w, uint64_t block, enum dif_tag tag, uint64_t expected, uint64_t actual)
{
	*w->error = (struct dif_error){block, tag, expected, actual};
	return -EILSEQ;
}

static int
verify_one(void *ctx, uint64_t block, uint8_t *md, uint64_t guard)
{
	struct work *w = ctx;
	const struct dif *dif = w->dif;
	uint64_t ref = (w->ref_tag + block) & ref_mask(dif);
	struct pi pi;

	load_pi(dif, md + dif->pi_offset, &pi);
	if (escaped(dif, &pi)) {
		return 0;
	}
	if ((dif->check & DIF_CHECK_GUARD) != 0 && pi.guard != guard) {
		return wrong(w, block, DIF_GUARD, guard, pi.guard);
	}
	if ((dif->check & DIF_CHECK_APP) != 0 && ((pi.app ^ dif->app_tag) & dif->app_mask) != 0) {
		return wrong(w, block, DIF_APP_TAG, dif->app_tag & dif->app_mask,
			     pi.app & dif->app_mask);
	}
	if ((dif->check & DIF_CHECK_REF) != 0 && dif->type != 3 && pi.ref != ref) {
		return wrong(w, block, DIF_REF_TAG, ref, pi.ref);
	}
	return 0;
}

int
dif_verify(const struct dif *dif, const struct dif_list *list, uint64_t num_blocks,
	   uint64_t ref_tag, struct dif_error *ret_error)
{
	struct work w = {.dif = dif, .ref_tag = ref_tag, .error = ret_error};

	return walk(dif, list, num_blocks, (dif->check & DIF_CHECK_GUARD) != 0, verify_one, &w);
}

void
dif_remap(const struct dif *dif, void *md, uint64_t num_blocks, uint64_t delta)
{
	uint8_t *p = (uint8_t *)md + dif->pi_offset;
	struct pi pi;

	if (dif->type == 3) {
		return;
	}
	for (uint64_t i = 0; i < num_blocks; i++, p += dif->md_bytes) {
		load_pi(dif, p, &pi);
		if (!escaped(dif, &pi)) {
			unsigned ref_bytes = formats[dif->format].ref_bits / 8u;

			store_be(p + dif->pi_bytes - ref_bytes, ref_bytes, pi.ref + delta);
		}
	}
}

void
dif_fill_unwritten(const struct dif *dif, void *md, uint64_t num_blocks)
{
	uint8_t *p = md;

	memset(p, 0, num_blocks * dif->md_bytes);
	for (uint64_t i = 0; i < num_blocks; i++, p += dif->md_bytes) {
		memset(p + dif->pi_offset, 0xff, dif->pi_bytes);
	}
}
