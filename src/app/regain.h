/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What could not be made at start because a bdev was missing (a controller, an export, a setting) is tried again when a bdev
 * comes. App thread.
 */
#ifndef APP_REGAIN_H
#define APP_REGAIN_H

#include "app/state.h"

/* From now on, for the process's one state. */
void regain_start(struct state *state);
/* Nothing is tried any more; also when it was not started. */
void regain_stop(void);

#endif
