/* SPDX-License-Identifier: BSD-3-Clause */
/* berth store check: a store that no berthd has open, looked at and mended. Exit codes as those of fsck. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "app/ctl_store.h"
#include "app/store_file.h"

#define COMMAND "store check"

struct checking {
	struct ctl *ctl;
	const char *path;
	bool repair;
	bool rebuild; /* the super block may be found anew */
	uint32_t cluster_bytes;
};

static json_t *
finding_json(const struct blob_finding *f)
{
	json_t *o = json_pack("{s:s, s:b, s:b}", "kind", blob_finding_words(f->kind), "damage",
			      blob_finding_damage(f->kind), "repaired", f->repaired);
	char id[24];

	if (f->blob != BLOB_ID_NONE) {
		snprintf(id, sizeof(id), "0x%" PRIx64, f->blob);
		json_object_set_new(o, "blob", json_string(id));
	}
	/* Names come from the disk, and need not be UTF-8. */
	json_object_set_new(o, "text", ctl_store_text(f->text, strlen(f->text)));
	json_object_set_new(o, "repair", json_string(f->repair));
	return o;
}

static void
print_json(const struct checking *c, const struct blob_check_report *report)
{
	json_t *findings = json_array();
	json_t *o = json_pack("{s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "findings", findings, "damage",
			      (json_int_t)report->damage, "notes", (json_int_t)report->notes, "repaired",
			      (json_int_t)report->repaired, "left", (json_int_t)report->left, "blobs",
			      (json_int_t)report->blobs, "clusters_used", (json_int_t)report->clusters_used,
			      "clusters", (json_int_t)report->clusters_total);

	json_object_set_new(o, "path", ctl_store_text(c->path, strlen(c->path)));
	for (uint32_t i = 0; i < report->num_findings; i++) {
		json_array_append_new(findings, finding_json(&report->findings[i]));
	}
	ctl_print_json(o);
	json_decref(o);
}

static void
print_finding(const struct checking *c, const struct blob_finding *f)
{
	printf("%s: %s\n", blob_finding_damage(f->kind) ? "damage" : "note", f->text);
	if (f->repaired) {
		printf("        repaired: %s\n", f->repair);
	} else if (c->repair && f->repair[0] != '\0') {
		printf("        not repaired\n");
	} else if (f->repair[0] != '\0') {
		printf("        --repair: %s\n", f->repair);
	}
}

static void
print_report(const struct checking *c, const struct blob_check_report *report)
{
	for (uint32_t i = 0; i < report->num_findings; i++) {
		print_finding(c, &report->findings[i]);
	}
	if (report->damage + report->notes > report->num_findings) {
		printf("and %" PRIu64 " more\n", report->damage + report->notes - report->num_findings);
	}
	printf("%s: %" PRIu64 " blobs, %" PRIu64 " of %" PRIu64 " clusters in use; ", c->path, report->blobs,
	       report->clusters_used, report->clusters_total);
	if (report->damage == 0 && report->repaired == 0) {
		printf("no damage\n");
	} else if (c->repair) {
		printf("%" PRIu64 " repaired, %" PRIu64 " left\n", report->repaired, report->left);
	} else {
		printf("%" PRIu64 " damaged; nothing was written\n", report->damage);
	}
}

/* The super block is gone or damaged: the check goes on with what is left where the user says so. */
static int
check_without_super(const struct checking *c, struct store_file *file, struct blob_check_report *report,
		    struct err *err)
{
	struct blob_super super;
	struct blob_check_options options = {.repair = c->repair, .geometry = &super};
	struct err why = ERR_NONE;
	bool sure;
	int rc;

	if (!c->rebuild) {
		err_append(err, "; --rebuild-super looks for what it said");
		return -EILSEQ;
	}
	rc = blob_salvage_guess(&file->dev, c->cluster_bytes, &super, &sure, &why);
	if (rc != 0) {
		err_append(err, "; without it: %s", why.text);
		return rc;
	}
	if (c->repair && !sure) {
		return err_set(err, -ENOTRECOVERABLE,
			       "the super block and the masks are lost: too little is left to write by; berth store "
			       "salvage reads the volumes");
	}
	/* What a volume's blocks were is not written anywhere else. */
	super.io_unit_bytes = file->block_size;
	blob_check_release(report);
	return blob_check(&file->dev, &options, report, err);
}

static int
run_check(const struct checking *c)
{
	struct blob_check_options options = {.repair = c->repair};
	struct blob_check_report report;
	struct store_file file;
	struct err err = ERR_NONE;
	int rc = store_file_open(&file, c->path, c->repair, &err), code;

	if (rc != 0) {
		return store_failed(COMMAND, c->path, &err);
	}
	rc = blob_check(&file.dev, &options, &report, &err);
	if (rc == -EILSEQ || (rc == -EINVAL && c->rebuild)) {
		rc = check_without_super(c, &file, &report, &err);
	}
	if (rc != 0) {
		code = store_failed(COMMAND, c->path, &err);
		code = rc == -EILSEQ ? STORE_DAMAGED : code;
	} else {
		if (c->ctl->json) {
			print_json(c, &report);
		} else {
			print_report(c, &report);
		}
		code = report.left != 0 ? STORE_DAMAGED : report.repaired != 0 ? STORE_REPAIRED : STORE_CLEAN;
	}
	blob_check_release(&report);
	store_file_close(&file);
	return code;
}

int
ctl_store_check(struct ctl *ctl, int argc, char **argv)
{
	struct checking c = {.ctl = ctl};
	int rc = store_take_cluster_size(COMMAND, &argc, argv, &c.cluster_bytes);

	if (rc != CTL_OK) {
		return rc;
	}
	c.repair = ctl_take_option(&argc, argv, "--repair", NULL) == 1;
	c.rebuild = ctl_take_option(&argc, argv, "--rebuild-super", NULL) == 1;
	rc = ctl_check_arguments(COMMAND, argc, argv, 1, 1);
	if (rc != CTL_OK) {
		return rc;
	}
	c.path = argv[1];
	return run_check(&c);
}
