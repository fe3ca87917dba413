/* SPDX-License-Identifier: BSD-3-Clause */
/* The command line of berthd. */
#ifndef APP_DAEMON_OPTIONS_H
#define APP_DAEMON_OPTIONS_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/cpumask.h"
#include "base/err.h"
#include "event/reactor.h"
#include "rpc/rpc.h"

#define DAEMON_RPC_SOCKET "/var/tmp/berth.sock"
#define DAEMON_SOCKET_DIR "/var/tmp"
/* Without -m there is a reactor for each CPU that the process may run on, at most so many. */
#define DAEMON_REACTORS_DEFAULT_MAX 16
/* With -m as many as are asked for, at most so many. */
#define DAEMON_REACTORS_MAX 256

enum daemon_action { DAEMON_RUN, DAEMON_SHOW_HELP, DAEMON_SHOW_VERSION };

/* Strings are borrowed from argv. */
struct daemon_options {
	enum daemon_action action;
	const char *config_file; /* NULL: none */
	const char *rpc_socket;  /* NULL: none, only rpc_address */
	const char *rpc_address; /* HOST:PORT of TCP; NULL: none */
	/* Who may call; path is not filled in. */
	struct rpc_server_options rpc;
	const char *socket_dir; /* NULL: not given */
	gid_t socket_group;
	bool has_socket_group;
	const char *state_dir;  /* NULL: none */
	struct cpumask cpus;    /* of the reactors, in order of lcore */
	bool pinned;            /* -m was given */
	enum reactor_mode mode;
	bool wait_for_rpc;
};

/* 0 or -EINVAL, with err naming the option. */
int daemon_options_parse(int argc, char *const argv[], struct daemon_options *ret_options,
			 struct err *err);

extern const char daemon_help[];

#endif
