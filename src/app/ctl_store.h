/* SPDX-License-Identifier: BSD-3-Clause */
/* The actions of berth store; their rows are in ctl_store_list.c. */
#ifndef APP_CTL_STORE_H
#define APP_CTL_STORE_H

#include "app/ctl.h"

/* argv[0] is the action. */
int ctl_store_list(struct ctl *ctl, int argc, char **argv);
int ctl_store_create(struct ctl *ctl, int argc, char **argv);
int ctl_store_grow(struct ctl *ctl, int argc, char **argv);

#endif
