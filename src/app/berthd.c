/* SPDX-License-Identifier: BSD-3-Clause */
/* The daemon's main(). Exit codes: 0 ended in good order, 1 could not start or go on, 2 wrong
 * use. */
#include <stdio.h>

#include "app/daemon.h"

int
main(int argc, char *argv[])
{
	struct daemon_options options;
	struct err err = ERR_NONE;

	if (daemon_options_parse(argc, argv, &options, &err) != 0) {
		fprintf(stderr, "berthd: %s\ntry 'berthd --help'\n", err_text(&err));
		return 2;
	}
	switch (options.action) {
	case DAEMON_SHOW_HELP:
		fputs(daemon_help, stdout);
		return 0;
	case DAEMON_SHOW_VERSION:
		puts("berthd " BERTH_VERSION);
		return 0;
	default:
		return daemon_run(&options);
	}
}
