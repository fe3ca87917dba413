/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef APP_DAEMON_H
#define APP_DAEMON_H

#include "app/daemon_options.h"

/* Runs until a signal ends it; the calling system thread becomes the first reactor. The
 * process's exit code. Once a process. */
int daemon_run(const struct daemon_options *options);

#endif
