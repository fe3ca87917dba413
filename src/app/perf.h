/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * `berth perf`: measures bdevs in this process, or a vhost-user-blk socket through our own
 * driver.
 */
#ifndef APP_PERF_H
#define APP_PERF_H

enum perf_exit {
	PERF_OK = 0,
	PERF_FAILED = 1, /* an I/O error, wrong data, or a target that cannot be opened */
	PERF_USAGE = 2,  /* wrong command line or job file */
};

/*
 * argv[0] is the command's name. Returns an exit code; what went wrong has been said on standard
 * error.
 */
int perf_main(int argc, char **argv);

#endif
