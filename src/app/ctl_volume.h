/* SPDX-License-Identifier: BSD-3-Clause */
/* What the actions of berth volume and berth store share (ctl_volume_find.c). Functions return exit codes, and have said what is
 * wrong. */
#ifndef APP_CTL_VOLUME_H
#define APP_CTL_VOLUME_H

#include "app/ctl.h"

/* A string of an object, "" when it has none; a number, 0 when it has none or one below. */
const char *volume_text(const json_t *object, const char *key);
uint64_t volume_number(const json_t *object, const char *key);

/* The volume that the user calls so: NAME where only one store has such a one, STORE/NAME, or its UUID. An element of
 * bdev_lvol_get_lvols, new reference. */
int volume_find(struct ctl *ctl, const char *command, const char *name, json_t **ret);
/* The same in an answer; NULL: there is none. Borrowed. */
const json_t *volume_in(const json_t *volumes, const char *name);

/*
 * Where a new volume belongs: STORE/NAME says it, or store does, or there is only one, or one that is the disks'
 * (CTL_STORE_OF_DISKS).
 * Both are the caller's to free.
 */
int volume_place(struct ctl *ctl, const char *command, const char *name, const char *store, char **ret_store, char **ret_name);

/* A size as people write it, in MiB, rounded up. */
int volume_size_in_mib(const char *command, const char *text, uint64_t *ret_mib);

/* Calls a method and drops its answer. Takes params. */
int volume_call(struct ctl *ctl, const char *command, const char *method, json_t *params);
/* The same of one that answers with a UUID; the caller frees it. */
int volume_make(struct ctl *ctl, const char *command, const char *method, json_t *params, char **ret_uuid);
/* Long work: there is no telling when it answers. */
int volume_call_long(struct ctl *ctl, const char *command, const char *method, json_t *params);

/*
 * What is not complete yet has a name of its own, and a mark by which the next one knows it from a volume of somebody who chose
 * that name: an origin that no stream has, with which it is made. volume_complete() gives it its name and takes the mark away, in
 * one step. volume_drop_left() deletes what has the mark and is not in use; else it says why not: CTL_REFUSED.
 */
#define VOLUME_INCOMPLETE "f8a5e1c2-6f0b-5d57-9c0e-6265727468ff"
int volume_complete(struct ctl *ctl, const char *command, const char *uuid, const char *name);
int volume_drop_left(struct ctl *ctl, const char *command, const json_t *volume);

/* What bdevs are called that berth volume import makes of an image, before the volume's name. */
#define VOLUME_IMAGE "image-"
/*
 * Deletes a bdev of berth volume import, and the file's below it, that no volume and nobody else uses. *ret_there: it is there
 * still, as it is in use or of another kind; false also when it never was.
 */
int volume_drop_image(struct ctl *ctl, const char *command, const char *bdev, bool *ret_there);

int volume_send(struct ctl *ctl, int argc, char **argv);
int volume_receive(struct ctl *ctl, int argc, char **argv);
int volume_import(struct ctl *ctl, int argc, char **argv);

#endif
