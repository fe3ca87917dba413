/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A store that nobody has open: looked at, mended, shown, and saved from. Synchronous, any thread, knows no events;
 *all metadata that is in use is in memory meanwhile. Shares with the store itself the codec (format.h) and nothing
 *else, so that a mistake of the one is seen by the other.
 *
 *	survey   what is on the disk, as it stands (blob_survey_read)
 *	check    what of it cannot be, in words; repair by request (blob_check)
 *	salvage  the contents of volumes, from what is left of a store (blob_salvage)
 */
#ifndef BLOB_CHECK_H
#define BLOB_CHECK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "blob/format.h"

/* The device. Offsets and lengths are multiples of 4096; 0 or a negative errno. */
struct blob_offline {
	int (*read)(void *ctx, uint64_t offset, void *buf, size_t bytes);
	int (*write)(void *ctx, uint64_t offset, const void *buf, size_t bytes); /* NULL: read-only */
	int (*flush)(void *ctx);
	/* Where the next bytes are that may not be zero, from offset on; up to `bytes` of the device. NULL: anywhere.
	 */
	uint64_t (*next_data)(void *ctx, uint64_t offset);
	void *ctx;
	uint64_t bytes;
};

/* ---- Survey ---- */

struct blob_survey_xattr {
	char *name; /* terminated */
	uint8_t *value;
	uint16_t bytes;
	bool internal;
};

struct blob_survey_run {  /* clusters that the blob has itself */
	uint64_t at;      /* the first, of the blob */
	uint32_t cluster; /* of the device */
	uint32_t length;
};

struct blob_survey_extent { /* an extent page that the table lists */
	uint64_t index;     /* of the table */
	uint32_t page;
	bool broken;  /* cannot be read as one, or does not belong here; it has no runs */
	bool rewrite; /* of the repair */
};

struct blob_survey_blob {
	uint64_t id;
	struct blob_flags flags;
	uint64_t num_clusters;
	uint64_t allocated;
	bool has_flags, has_table, has_rle;
	bool newer;  /* unknown "invalid" flags: it cannot be opened */
	bool sealed; /* something unknown is in it, be it flags or descriptors: its metadata must not be written anew
		      */
	uint32_t *pages; /* the chain, as far as it is good */
	uint32_t num_pages;
	struct blob_survey_xattr *xattrs;
	uint32_t num_xattrs;
	struct blob_survey_run *runs; /* ascending */
	uint32_t num_runs;
	struct blob_survey_extent *extents; /* ascending */
	uint32_t num_extents;
	struct err damage; /* code 0: the chain and what is in it can be used */
	/* BLOB_ID_NONE: none. The parent; whose snapshot is being made of it; whose snapshot it was, that is being removed. */
	uint64_t parent, making, removal;
	uint32_t clones; /* whose parent it is */
	/* The repair's. */
	bool dirty, drop;
};

struct blob_survey_mask {
	uint8_t *bits; /* NULL: cannot be used */
	uint32_t length;
	struct err err;
};

struct blob_survey {
	const struct blob_offline *dev;
	struct blob_super super;
	struct err super_err;           /* code 0: it is the disk's; else it was given or guessed */
	struct blob_survey_blob *blobs; /* ascending */
	uint32_t num_blobs;
	struct blob_survey_mask page_mask, cluster_mask, blobid_mask;
	/* Metadata pages with contents, ascending: the good ones' bytes, and those that cannot be read or have a
	 * wrong checksum. */
	uint32_t *good;
	uint8_t **good_bytes;
	uint32_t num_good;
	uint32_t *bad;
	uint32_t num_bad;
};

/*
 * geometry: in place of the disk's super block; NULL: as it is on the disk. -EINVAL (no blobstore), -EILSEQ,
 * -ENOTSUP, -ENOSPC, -ENOMEM, -EIO (the super block). dev is borrowed until the survey is freed.
 */
int blob_survey_read(const struct blob_offline *dev, const struct blob_super *geometry,
		     struct blob_survey **ret_survey, struct err *err);
void blob_survey_free(struct blob_survey *survey);
struct blob_survey_blob *blob_survey_find(const struct blob_survey *survey, uint64_t id);
/* NULL: none. */
const struct blob_survey_xattr *blob_survey_xattr(const struct blob_survey_blob *blob, const char *name,
						  bool internal);
/* A text value, as lvol stores have them ("name", "uuid"); NULL: none, or not a text. */
const char *blob_survey_text(const struct blob_survey_blob *blob, const char *name);
/* An internal value that is a blob id; BLOB_ID_NONE: none. */
uint64_t blob_survey_id(const struct blob_survey_blob *blob, const char *name);
/* The device's cluster, 0: the blob has not that one itself. A damaged run may reach beyond what 32 bits hold. */
uint64_t blob_survey_cluster(const struct blob_survey_blob *blob, uint64_t at);
/* A blob that was left half-made or half-removed when power failed: whether the next load removes it (its clusters
 * belong to others, or to nobody). */
bool blob_survey_vanishes(const struct blob_survey *survey, const struct blob_survey_blob *blob);

/* ---- Check ---- */

/*
 * Kinds of findings: name, words, whether it is damage. What is not damage is settled by the next load as a matter of
 * course: it comes of power cuts, not of mistakes.
 */
#define BLOB_FINDINGS(X) \
	X(UNCLEAN, "not unloaded", false) \
	X(PENDING, "half-made or half-removed snapshot", false) \
	X(DELETED, "deleted snapshot that its clones need", false) \
	X(GROUP, "half-made group of snapshots", false) \
	X(NEWER, "of a later version", false) \
	X(SUPER, "super block", true) \
	X(MASK, "mask cannot be read", true) \
	X(CLUSTER_LEAKED, "clusters marked, but nobody's", true) \
	X(CLUSTER_UNMARKED, "clusters in use, but not marked", true) \
	X(CLUSTER_SHARED, "cluster that two have", true) \
	X(CLUSTER_STRAY, "cluster outside the data", true) \
	X(PAGE_LEAKED, "metadata pages marked, but nobody's", true) \
	X(PAGE_UNMARKED, "metadata pages in use, but not marked", true) \
	X(PAGE_SHARED, "metadata page that two have", true) \
	X(PAGE_BAD, "metadata page is damaged", true) \
	X(BLOBID, "blob-id mask", true) \
	X(CHAIN, "metadata of a blob is broken", true) \
	X(EXTENT, "extent page is broken", true) \
	X(HOLE, "thick volume with a hole", true) \
	X(FLAGS, "flags", true) \
	X(PARENT, "parent", true) \
	X(XATTR, "xattr", true) \
	X(NAME, "name or UUID", true) \
	X(SUPER_BLOB, "super blob", true)

enum blob_finding_kind {
#define BLOB_FINDING_ENUM(name, words, damage) BLOB_FINDING_##name,
	BLOB_FINDINGS(BLOB_FINDING_ENUM)
#undef BLOB_FINDING_ENUM
		BLOB_FINDING_KINDS,
};

struct blob_finding {
	enum blob_finding_kind kind;
	uint64_t blob; /* BLOB_ID_NONE: the store's */
	bool repaired;
	char text[256];   /* one sentence without full stop */
	char repair[160]; /* what was done, or would be; "": nothing can be */
};

struct blob_check_report {
	struct blob_finding *findings; /* at most BLOB_FINDINGS_KEPT; the counts are of all */
	uint32_t num_findings;
	uint64_t count[BLOB_FINDING_KINDS];
	uint64_t damage;   /* findings that are damage */
	uint64_t notes;    /* that are not */
	uint64_t repaired; /* of both */
	uint64_t left;     /* damage that was not repaired */
	uint64_t blobs, clusters_used, clusters_total, pages_used;
};

#define BLOB_FINDINGS_KEPT 10000u

struct blob_check_options {
	bool repair;
	const struct blob_super *geometry; /* NULL: the disk's */
};

/*
 * 0: the report is filled, whatever it says; a negative errno: the store could not be looked at (err), or a write of
 * the repair failed (what was done before is done; the store is not clean then, and the next load or repair goes on).
 * ret_report is to be released, also after errors.
 */
int blob_check(const struct blob_offline *dev, const struct blob_check_options *options,
	       struct blob_check_report *ret_report, struct err *err);
void blob_check_release(struct blob_check_report *report);
const char *blob_finding_words(enum blob_finding_kind kind);
bool blob_finding_damage(enum blob_finding_kind kind);

/* ---- Salvage ---- */

/*
 * The geometry of a store whose super block is gone, from metadata pages and masks that are left. cluster_bytes: 0:
 * to be guessed, too. *ret_sure: masks say how long the metadata and how large the store is; else it is good enough
 * to read by, not to write. -ENOENT: nothing that looks like a blobstore, or several answers (err says what to give).
 */
int blob_salvage_guess(const struct blob_offline *dev, uint32_t cluster_bytes, struct blob_super *ret_super,
		       bool *ret_sure, struct err *err);

struct blob_salvage {
	/* A cluster's bytes of the volume, from offset `at`; those that are zero or nobody's are not written. At most as many as
	 * the store has clusters: no sound volume has more. */
	int (*write)(void *ctx, uint64_t at, const void *buf, size_t bytes);
	/* A piece that could not be read, or whose place is not known: it is left as zeroes. May be NULL. */
	void (*lost)(void *ctx, uint64_t at, uint64_t bytes, const char *why);
	void *ctx;
};

/* How many clusters are worth a look: of a damaged blob that promises more than it lists and than the store has, no more than
 * those. */
uint64_t blob_salvage_clusters(const struct blob_survey *survey, const struct blob_survey_blob *blob);
/* One volume through its parents. Returns what write() says, -ENOMEM, or 0, also when parts are lost. */
int blob_salvage(const struct blob_survey *survey, const struct blob_survey_blob *blob,
		 const struct blob_salvage *to);

#endif
