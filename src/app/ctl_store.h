/* SPDX-License-Identifier: BSD-3-Clause */
/* The actions of berth store; their rows are in ctl_store_list.c. */
#ifndef APP_CTL_STORE_H
#define APP_CTL_STORE_H

#include "app/ctl.h"

/* argv[0] is the action. */
int ctl_store_list(struct ctl *ctl, int argc, char **argv);
int ctl_store_create(struct ctl *ctl, int argc, char **argv);
int ctl_store_grow(struct ctl *ctl, int argc, char **argv);
/* Of a store that no berthd has open. Exit codes as those of fsck (store_file.h). */
int ctl_store_check(struct ctl *ctl, int argc, char **argv);
int ctl_store_dump(struct ctl *ctl, int argc, char **argv);
int ctl_store_salvage(struct ctl *ctl, int argc, char **argv);

/* Text of a disk as JSON: what is no UTF-8 is written as \xNN. New reference. */
json_t *ctl_store_text(const char *text, size_t bytes);

#endif
