/* SPDX-License-Identifier: BSD-3-Clause */
/* berth store dump: all that a store's metadata says, for people and for programs. */
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/ctl_store.h"
#include "app/store_file.h"
#include "base/check.h"

#define COMMAND "store dump"

json_t *
ctl_store_text(const char *text, size_t bytes)
{
	json_t *string = json_stringn(text, bytes);
	char *safe;
	size_t used = 0;

	if (string != NULL) {
		return string;
	}
	safe = malloc(bytes * 4 + 1);
	for (size_t i = 0; safe != NULL && i < bytes; i++) {
		if (isprint((unsigned char)text[i])) {
			safe[used++] = text[i];
		} else {
			used += (size_t)snprintf(safe + used, 5, "\\x%02x", (unsigned char)text[i]);
		}
	}
	string = safe == NULL ? NULL : json_stringn(safe, used);
	free(safe);
	return string;
}

static const struct {
	uint64_t bit;
	const char *name;
} invalid_flags[] = {
	{BLOB_INVALID_THIN, "thin"},
	{BLOB_INVALID_INTERNAL_XATTR, "internal xattrs"},
	{BLOB_INVALID_EXTENT_TABLE, "extent table"},
	{BLOB_INVALID_EXTERNAL, "external snapshot"},
};

static bool
is_text(const struct blob_survey_xattr *x)
{
	size_t length = strnlen((const char *)x->value, x->bytes);

	/* The rest is padding. */
	for (size_t i = 0; i < x->bytes; i++) {
		if (i < length ? !isprint(x->value[i]) : x->value[i] != 0) {
			return false;
		}
	}
	return length > 0;
}

static void
hex_of(const struct blob_survey_xattr *x, char *text)
{
	for (uint16_t i = 0; i < x->bytes; i++) {
		snprintf(text + (size_t)i * 2, 3, "%02x", x->value[i]);
	}
	text[(size_t)x->bytes * 2] = '\0';
}

static bool
is_id(const struct blob_survey_xattr *x)
{
	return x->internal && x->bytes == sizeof(uint64_t) && strcmp(x->name, BLOB_XATTR_EXTERNAL) != 0;
}

/* ---- JSON ---- */

static json_t *
id_json(uint64_t id)
{
	char text[24];

	snprintf(text, sizeof(text), "0x%" PRIx64, id);
	return id == BLOB_ID_NONE ? json_null() : json_string(text);
}

static json_t *
region_json(const struct blob_region *region)
{
	return json_pack("{s:I, s:I}", "start", (json_int_t)region->start, "length", (json_int_t)region->length);
}

static json_t *
super_json(const struct blob_survey *s)
{
	const struct blob_super *super = &s->super;
	json_t *o = json_pack("{s:I, s:b, s:o, s:I, s:I, s:I, s:I, s:I, s:I}", "version", (json_int_t)super->version,
			      "clean", super->clean, "super_blob", id_json(super->super_blob), "cluster_size",
			      (json_int_t)super->cluster_bytes, "size", (json_int_t)super->bytes, "clusters",
			      (json_int_t)blob_super_clusters(super), "metadata_clusters",
			      (json_int_t)blob_super_md_clusters(super), "io_unit_size",
			      (json_int_t)super->io_unit_bytes, "md_page_size", (json_int_t)super->md_page_bytes);

	json_object_set_new(o, "type", ctl_store_text(super->type, strnlen(super->type, BLOB_TYPE_BYTES)));
	json_object_set_new(o, "used_page_mask", region_json(&super->page_mask));
	json_object_set_new(o, "used_cluster_mask", region_json(&super->cluster_mask));
	json_object_set_new(o, "used_blobid_mask", region_json(&super->blobid_mask));
	json_object_set_new(o, "metadata", region_json(&super->md));
	if (s->super_err.code != 0) {
		json_object_set_new(o, "guessed", json_string(s->super_err.text));
	}
	return o;
}

static json_t *
xattr_json(const struct blob_survey_xattr *x)
{
	json_t *o = json_pack("{s:o, s:b, s:I}", "name", ctl_store_text(x->name, strlen(x->name)), "internal",
			      x->internal, "bytes", (json_int_t)x->bytes);
	char hex[2 * UINT16_MAX + 1];

	if (is_id(x)) {
		uint64_t id;

		memcpy(&id, x->value, sizeof(id));
		json_object_set_new(o, "blob", id_json(id));
	} else if (is_text(x)) {
		json_object_set_new(
			o, "text", ctl_store_text((const char *)x->value, strnlen((const char *)x->value, x->bytes)));
	} else {
		hex_of(x, hex);
		json_object_set_new(o, "hex", json_string(hex));
	}
	return o;
}

static json_t *
flags_json(const struct blob_survey_blob *blob)
{
	json_t *a = json_array();

	for (unsigned i = 0; i < ARRAY_SIZE(invalid_flags); i++) {
		if ((blob->flags.invalid & invalid_flags[i].bit) != 0) {
			json_array_append_new(a, json_string(invalid_flags[i].name));
		}
	}
	if ((blob->flags.data_ro & BLOB_DATA_RO_READ_ONLY) != 0) {
		json_array_append_new(a, json_string("read-only"));
	}
	return a;
}

static json_t *
blob_json(const struct blob_survey_blob *blob)
{
	json_t *pages = json_array(), *xattrs = json_array(), *extents = json_array(), *runs = json_array();
	json_t *o = json_pack("{s:o, s:I, s:I, s:o, s:o, s:[III], s:o, s:o, s:o, s:o}", "id", id_json(blob->id),
			      "clusters", (json_int_t)blob->num_clusters, "allocated", (json_int_t)blob->allocated,
			      "parent", id_json(blob->parent), "flags", flags_json(blob), "raw_flags",
			      (json_int_t)blob->flags.invalid, (json_int_t)blob->flags.data_ro,
			      (json_int_t)blob->flags.md_ro, "pages", pages, "xattrs", xattrs, "extent_pages",
			      extents, "extents", runs);

	for (uint32_t i = 0; i < blob->num_pages; i++) {
		json_array_append_new(pages, json_integer(blob->pages[i]));
	}
	for (uint32_t i = 0; i < blob->num_xattrs; i++) {
		json_array_append_new(xattrs, xattr_json(&blob->xattrs[i]));
	}
	for (uint32_t i = 0; i < blob->num_extents; i++) {
		json_array_append_new(extents, json_pack("{s:I, s:I, s:b}", "first_cluster",
							 (json_int_t)(blob->extents[i].index * BLOB_EXTENT_CLUSTERS),
							 "page", (json_int_t)blob->extents[i].page, "broken",
							 blob->extents[i].broken));
	}
	for (uint32_t i = 0; i < blob->num_runs; i++) {
		json_array_append_new(runs, json_pack("{s:I, s:I, s:I}", "at", (json_int_t)blob->runs[i].at,
						      "cluster", (json_int_t)blob->runs[i].cluster, "length",
						      (json_int_t)blob->runs[i].length));
	}
	if (blob->damage.code != 0) {
		json_object_set_new(o, "damage", json_string(blob->damage.text));
	}
	return o;
}

static void
print_json(const struct blob_survey *s)
{
	json_t *blobs = json_array();
	json_t *o = json_pack("{s:o, s:o}", "super", super_json(s), "blobs", blobs);

	for (uint32_t i = 0; i < s->num_blobs; i++) {
		json_array_append_new(blobs, blob_json(&s->blobs[i]));
	}
	ctl_print_json(o);
	json_decref(o);
}

/* ---- Text ---- */

static void
print_text(const char *text, size_t bytes)
{
	for (size_t i = 0; i < bytes; i++) {
		if (isprint((unsigned char)text[i])) {
			putchar(text[i]);
		} else {
			printf("\\x%02x", (unsigned char)text[i]);
		}
	}
}

static void
print_region(const char *name, const struct blob_region *region, const struct blob_survey_mask *mask)
{
	printf("  %-19s pages %" PRIu32 " to %" PRIu32, name, region->start,
	       region->start + region->length - (region->length != 0));
	if (mask != NULL && mask->err.code != 0) {
		printf(": %s", mask->err.text);
	}
	printf("\n");
}

static void
print_super(const struct blob_survey *s)
{
	const struct blob_super *super = &s->super;
	char size[32], cluster[32];

	if (s->super_err.code != 0) {
		printf("the super block is lost (%s); from what is left it was:\n", s->super_err.text);
	}
	printf("version %" PRIu32 ", %s, type \"", super->version, super->clean ? "clean" : "not clean");
	print_text(super->type, strnlen(super->type, BLOB_TYPE_BYTES));
	printf("\"\n  %s (%" PRIu64 " bytes), %" PRIu64 " clusters of %s, the first %" PRIu64 " for metadata\n",
	       ctl_bytes(super->bytes, size), super->bytes, blob_super_clusters(super),
	       ctl_bytes(super->cluster_bytes, cluster), blob_super_md_clusters(super));
	printf("  I/O unit %" PRIu32 ", metadata page %" PRIu32 " bytes\n", super->io_unit_bytes,
	       super->md_page_bytes);
	print_region("used-page mask", &super->page_mask, &s->page_mask);
	print_region("used-cluster mask", &super->cluster_mask, &s->cluster_mask);
	print_region("used-blob-id mask", &super->blobid_mask, &s->blobid_mask);
	print_region("metadata", &super->md, NULL);
	for (uint32_t i = 0; i < s->num_bad; i++) {
		printf("  metadata page %" PRIu32 " is damaged\n", s->bad[i]);
	}
}

static void
print_xattr(const struct blob_survey_xattr *x)
{
	printf("  %s ", x->internal ? "internal xattr" : "xattr");
	print_text(x->name, strlen(x->name));
	if (is_id(x)) {
		uint64_t id;

		memcpy(&id, x->value, sizeof(id));
		printf(" = blob 0x%" PRIx64 "\n", id);
		return;
	}
	if (is_text(x)) {
		printf(" = \"");
		print_text((const char *)x->value, strnlen((const char *)x->value, x->bytes));
		printf("\" (%u bytes)\n", x->bytes);
		return;
	}
	printf(" =");
	for (uint16_t i = 0; i < x->bytes; i++) {
		printf(" %02x", x->value[i]);
	}
	printf(" (%u bytes)\n", x->bytes);
}

static void
print_blob(const struct blob_survey *s, const struct blob_survey_blob *blob)
{
	json_t *flags = flags_json(blob);
	const json_t *flag;
	size_t k;

	printf("\nblob 0x%" PRIx64 "%s\n  %" PRIu64 " clusters, %" PRIu64 " of its own", blob->id,
	       blob->id == s->super.super_blob ? " (super blob)" : "", blob->num_clusters, blob->allocated);
	json_array_foreach (flags, k, flag) {
		printf(", %s", json_string_value(flag));
	}
	json_decref(flags);
	printf("\n  flags 0x%" PRIx64 " 0x%" PRIx64 " 0x%" PRIx64 ", metadata pages", blob->flags.invalid,
	       blob->flags.data_ro, blob->flags.md_ro);
	for (uint32_t i = 0; i < blob->num_pages; i++) {
		printf(" %" PRIu32, blob->pages[i]);
	}
	printf("\n");
	if (blob->damage.code != 0) {
		printf("  DAMAGED: %s\n", blob->damage.text);
	}
	for (uint32_t i = 0; i < blob->num_xattrs; i++) {
		print_xattr(&blob->xattrs[i]);
	}
	for (uint32_t i = 0; i < blob->num_extents; i++) {
		printf("  extent page %" PRIu32 ": clusters from %" PRIu64 " on%s\n", blob->extents[i].page,
		       blob->extents[i].index * BLOB_EXTENT_CLUSTERS, blob->extents[i].broken ? ": BROKEN" : "");
	}
	for (uint32_t i = 0; i < blob->num_runs; i++) {
		const struct blob_survey_run *run = &blob->runs[i];

		printf("  clusters %" PRIu64 " to %" PRIu64 " at %" PRIu32 "\n", run->at, run->at + run->length - 1,
		       run->cluster);
	}
}

int
ctl_store_dump(struct ctl *ctl, int argc, char **argv)
{
	struct blob_survey *survey = NULL;
	struct store_file file;
	struct err err = ERR_NONE;
	uint32_t cluster_bytes;
	bool guessed;
	int rc = store_take_cluster_size(COMMAND, &argc, argv, &cluster_bytes);

	if (rc == CTL_OK) {
		rc = ctl_check_arguments(COMMAND, argc, argv, 1, 1);
	}
	if (rc != CTL_OK) {
		return rc;
	}
	if (store_file_open(&file, argv[1], false, &err) != 0) {
		return store_failed(COMMAND, argv[1], &err);
	}
	if (store_file_survey(&file, cluster_bytes, &survey, &guessed, &err) != 0) {
		rc = store_failed(COMMAND, argv[1], &err);
	} else if (ctl->json) {
		print_json(survey);
	} else {
		print_super(survey);
		for (uint32_t i = 0; i < survey->num_blobs; i++) {
			print_blob(survey, &survey->blobs[i]);
		}
	}
	blob_survey_free(survey);
	store_file_close(&file);
	return rc;
}
