/* SPDX-License-Identifier: BSD-3-Clause */
/* Between the files of the offline checker: survey*.c, check*.c, salvage.c. */
#ifndef BLOB_SURVEY_H
#define BLOB_SURVEY_H

#include "blob/check.h"

/* ---- survey.c ---- */

/* A copy of item at the array's end; NULL: memory. The array is only ever grown by this. */
void *survey_push(void **array, uint32_t *count, size_t item_bytes, const void *item);
bool survey_zero(const void *buf, size_t bytes);
uint64_t survey_page_offset(const struct blob_super *super, uint32_t page);
/* Of its region, whole pages; 0: there is none. */
size_t survey_mask_bytes(const struct blob_super *super, const struct blob_region *region, uint64_t bits);
/* A metadata page with contents and a right checksum; NULL: it is not. */
const uint8_t *survey_page(const struct blob_survey *survey, uint32_t page);
bool survey_page_bad(const struct blob_survey *survey, uint32_t page);

/* ---- survey_blob.c ---- */

int survey_blobs(struct blob_survey *survey); /* -ENOMEM */
/* Behind those it has; what begins beyond 32 bits is left out, no store has it. -ENOMEM. */
int survey_add_run(struct blob_survey_blob *blob, uint64_t at, uint64_t cluster, uint32_t length);
/* As blob_survey_cluster(); and how many from `at` on follow one upon the other, or are all missing. */
uint64_t survey_cluster_run(const struct blob_survey_blob *blob, uint64_t at, uint64_t *ret_length);
/* BLOB_ID_NONE: none; the xattr is the caller's. */
void survey_stand_on(struct blob_survey *survey, struct blob_survey_blob *blob, uint64_t parent);
void survey_blob_release(struct blob_survey_blob *blob);
/* The blob is dirty then. */
void survey_drop_xattr(struct blob_survey_blob *blob, uint32_t i);
/* Those of num_xattrs that are true, at once. */
void survey_drop_xattrs(struct blob_survey_blob *blob, const bool *drop);
void survey_drop_internal(struct blob_survey_blob *blob, const char *name);
/* The blob is dirty, and extent pages of clusters [at, at + count) are to be written anew. */
void survey_rewrite_extents(struct blob_survey_blob *blob, uint64_t at, uint64_t count);
/* In place of the one of that name; -ENOMEM. */
int survey_set_xattr(struct blob_survey_blob *blob, bool internal, const char *name, const void *value, uint16_t bytes);
/* The extent page's descriptor; -EILSEQ: it is none, with the reason. */
int survey_extent_page(const struct blob_survey *survey, uint32_t page, struct blob_descriptor *ret_d, struct err *err);

#endif
