/* SPDX-License-Identifier: BSD-3-Clause */
/* Between check.c, check_owners.c, check_pending.c, check_names.c and check_repair.c. */
#ifndef BLOB_CHECK_INTERNAL_H
#define BLOB_CHECK_INTERNAL_H

#include "blob/check.h"
#include "blob/survey_bits.h"

struct check {
	struct blob_survey *survey;
	struct blob_check_report *report;
	bool lvol;        /* a store of logical volumes: names and UUIDs are known */
	bool masks_count; /* the store is clean: masks say what is in use */
	bool no_memory;
	struct survey_bits cluster_used; /* somebody's, as found */
	uint32_t *page_owner; /* number of the blob + 1, 0: nobody's; as found */
	uint64_t looks; /* runs that may still be looked at to name who shares */
	uint64_t called_id; /* whose name `called` has */
	char called[192];
};

/* repair: what is done about it, "": nothing can be. */
void check_note(struct check *c, enum blob_finding_kind kind, uint64_t blob, const char *repair, const char *fmt, ...)
	__attribute__((format(printf, 5, 6)));

/* "volume NAME (blob 0x100000002)", as far as that is known; for one message. */
const char *check_call(struct check *c, const struct blob_survey_blob *blob);

/* check_pending.c: what was under way when power failed. Groups of snapshots, over all; then each blob. */
void check_groups(struct check *c);
void check_pending(struct check *c, struct blob_survey_blob *blob);

/* check_owners.c: who has which cluster and page, against each other and against the masks. */
void check_owners(struct check *c);
/* Where data clusters begin, and end. */
bool check_data_cluster(const struct blob_survey *survey, uint64_t cluster);
/* The clusters of the run that lie among those: from *ret_from to before *ret_to, which is the same when there are none. */
void check_cut_run(const struct blob_survey *survey, const struct blob_survey_run *run, uint64_t *ret_from, uint64_t *ret_to);

/* check_names.c: the super blob, names and UUIDs of logical volumes. */
void check_names(struct check *c);

/* check_repair.c */
int check_repair(struct check *c, struct err *err);

#endif
