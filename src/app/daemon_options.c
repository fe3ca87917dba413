/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One table says all about the options: letter, long name, whether it takes a value, and what to do
 * with it. getopt_long is not used: it prints by itself, and takes abbreviations that a later
 * option makes ambiguous.
 */
#include "app/daemon_options.h"

#include <ctype.h>
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "sock/tcp.h"

const char daemon_help[] =
	"usage: berthd [options]\n"
	"\n"
	"Serves block devices to virtual machines over vhost-user sockets; see berthd(8).\n"
	"\n"
	"  -c, --config FILE      JSON configuration, as `berth config save` and SPDK's "
	"save_config write it\n"
	"  -r, --rpc-socket PATH  JSON-RPC socket (default " DAEMON_RPC_SOCKET ")\n"
	"  -r HOST:PORT           JSON-RPC over TCP, in its place or, with two of them, besides\n"
	"      --rpc-user USER,...  may call over the socket, besides root and this user\n"
	"      --rpc-group GROUP  its members may, too\n"
	"      --rpc-mode MODE    permissions of the socket: 0600, or what the two above need\n"
	"      --rpc-token-file FILE  over TCP clients show its first line\n"
	"      --rpc-tls DIR      TLS over TCP: ca-cert.pem, server-cert.pem, server-key.pem; without a\n"
	"                         token clients show a certificate\n"
	"  -m, --cpumask MASK     one reactor on each of these CPUs, pinned: 0x3, [0,2-3]\n"
	"                         (default: one for each CPU this process may run on, not pinned)\n"
	"  -S, --socket-dir DIR   sockets of controllers; made if missing\n"
	"                         (default " DAEMON_SOCKET_DIR
	"; with --state-dir its folder sockets)\n"
	"      --socket-group GROUP  its members may connect to them, besides this user\n"
	"      --mode MODE        how reactors wait for work: poll, interrupt, adaptive (default)\n"
	"      --state-dir DIR    remembers what is made by RPC and restores it at start; made if "
	"missing\n"
	"      --wait-for-rpc     starts when framework_start_init is called\n"
	"      --version          prints the version\n"
	"  -h, --help             prints this\n";

struct option {
	char letter; /* 0: none */
	const char *name;
	bool has_value;
	int (*set)(struct daemon_options *o, const char *value, struct err *err);
};

static int
set_config(struct daemon_options *o, const char *value, struct err *err)
{
	o->config_file = value;
	return 0;
}

static int
set_rpc_socket(struct daemon_options *o, const char *value, struct err *err)
{
	if (!rpc_is_address(value)) {
		o->rpc_socket = value;
		return 0;
	}
	o->rpc_address = value;
	return tcp_check_address(value, err);
}

/* 0 or -EINVAL: no number of an owner. */
static int
parse_id(const char *text, uint32_t *ret_id)
{
	unsigned long number;
	char *end;

	errno = 0;
	number = strtoul(text, &end, 10);
	if (!isdigit((unsigned char)text[0]) || *end != '\0' || errno != 0 || number >= UINT32_MAX) {
		return -EINVAL;
	}
	*ret_id = (uint32_t)number;
	return 0;
}

static int
parse_group(const char *text, gid_t *ret_group, struct err *err)
{
	const struct group *group = getgrnam(text);

	if (group != NULL) {
		*ret_group = group->gr_gid;
		return 0;
	}
	return parse_id(text, ret_group) == 0 ? 0 : err_set(err, -EINVAL, "there is no group '%.64s'", text);
}

static int
add_rpc_user(struct daemon_options *o, const char *name, struct err *err)
{
	const struct passwd *user = getpwnam(name);
	struct rpc_peers *peers = &o->rpc.peers;
	uid_t uid;

	if (user != NULL) {
		uid = user->pw_uid;
	} else if (parse_id(name, &uid) != 0) {
		return err_set(err, -EINVAL, "there is no user '%.64s'", name);
	}
	if (peers->uid_count == RPC_PEERS_MAX) {
		return err_set(err, -EINVAL, "these are more than %d users", RPC_PEERS_MAX);
	}
	peers->uids[peers->uid_count++] = uid;
	return 0;
}

static int
set_rpc_user(struct daemon_options *o, const char *value, struct err *err)
{
	int rc = 0;

	while (rc == 0 && *value != '\0') {
		size_t len = strcspn(value, ",");
		char name[64];

		if (len >= sizeof(name)) {
			return err_set(err, -EINVAL, "there is no user '%.64s'", value);
		}
		memcpy(name, value, len);
		name[len] = '\0';
		rc = add_rpc_user(o, name, err);
		value += len + (value[len] == ',');
	}
	return rc;
}

static int
set_rpc_group(struct daemon_options *o, const char *value, struct err *err)
{
	o->rpc.has_group = true;
	return parse_group(value, &o->rpc.group, err);
}

static int
set_rpc_mode(struct daemon_options *o, const char *value, struct err *err)
{
	char *end;
	unsigned long mode = strtoul(value, &end, 8);

	if (value[0] < '0' || value[0] > '7' || *end != '\0' || mode > 0777 || (mode & 0600) != 0600) {
		return err_set(err, -EINVAL, "'%.64s' is not a mode such as 0660 that lets the owner read and write", value);
	}
	o->rpc.mode = (mode_t)mode;
	return 0;
}

static int
set_rpc_token_file(struct daemon_options *o, const char *value, struct err *err)
{
	o->rpc.token_file = value;
	return 0;
}

static int
set_rpc_tls(struct daemon_options *o, const char *value, struct err *err)
{
	o->rpc.tls_dir = value;
	return 0;
}

static void
allowed_cpus(struct cpumask *mask)
{
	cpu_set_t set;

	*mask = (struct cpumask){{0}};
	CPU_ZERO(&set);
	if (sched_getaffinity(0, sizeof(set), &set) != 0) {
		cpumask_set(mask, 0);
		return;
	}
	for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++) {
		if (CPU_ISSET(cpu, &set)) {
			cpumask_set(mask, cpu);
		}
	}
}

static int
set_cpumask(struct daemon_options *o, const char *value, struct err *err)
{
	struct cpumask allowed;
	unsigned cpu;
	int rc = cpumask_parse(value, &o->cpus, err);

	if (rc != 0) {
		return rc;
	}
	allowed_cpus(&allowed);
	CPUMASK_FOREACH (cpu, &o->cpus) {
		if (!cpumask_test(&allowed, cpu)) {
			char text[CPUMASK_TEXT_BYTES];

			cpumask_format(&allowed, true, text);
			return err_set(
				err, -EINVAL,
				"CPU %u of mask %.64s is not one this process may run on (%.64s)",
				cpu, value, text);
		}
	}
	if (cpumask_count(&o->cpus) > DAEMON_REACTORS_MAX) {
		return err_set(err, -EINVAL, "mask %.64s has %u CPUs, at most %d are possible",
			       value, cpumask_count(&o->cpus), DAEMON_REACTORS_MAX);
	}
	o->pinned = true;
	return 0;
}

static int
set_socket_dir(struct daemon_options *o, const char *value, struct err *err)
{
	o->socket_dir = value;
	return 0;
}

static int
set_socket_group(struct daemon_options *o, const char *value, struct err *err)
{
	o->has_socket_group = true;
	return parse_group(value, &o->socket_group, err);
}

static int
set_mode(struct daemon_options *o, const char *value, struct err *err)
{
	if (reactor_mode_parse(value, &o->mode) != 0) {
		return err_set(err, -EINVAL, "'%.64s' is not one of poll, interrupt, adaptive",
			       value);
	}
	return 0;
}

static int
set_state_dir(struct daemon_options *o, const char *value, struct err *err)
{
	o->state_dir = value;
	return 0;
}

static int
set_wait_for_rpc(struct daemon_options *o, const char *value, struct err *err)
{
	o->wait_for_rpc = true;
	return 0;
}

static int
set_version(struct daemon_options *o, const char *value, struct err *err)
{
	o->action = DAEMON_SHOW_VERSION;
	return 0;
}

static int
set_help(struct daemon_options *o, const char *value, struct err *err)
{
	o->action = DAEMON_SHOW_HELP;
	return 0;
}

static const struct option options[] = {
	{'c', "config", true, set_config},
	{'r', "rpc-socket", true, set_rpc_socket},
	{0, "rpc-user", true, set_rpc_user},
	{0, "rpc-group", true, set_rpc_group},
	{0, "rpc-mode", true, set_rpc_mode},
	{0, "rpc-token-file", true, set_rpc_token_file},
	{0, "rpc-tls", true, set_rpc_tls},
	{'m', "cpumask", true, set_cpumask},
	{'S', "socket-dir", true, set_socket_dir},
	{0, "socket-group", true, set_socket_group},
	{0, "mode", true, set_mode},
	{0, "state-dir", true, set_state_dir},
	{0, "wait-for-rpc", false, set_wait_for_rpc},
	{0, "version", false, set_version},
	{'h', "help", false, set_help},
};

/* arg is "-x", "-xVALUE", "--name" or "--name=VALUE"; *ret_value is what is glued to it, NULL
 * for nothing. */
static const struct option *
find(const char *arg, const char **ret_value)
{
	bool is_long = arg[0] == '-' && arg[1] == '-';

	*ret_value = NULL;
	for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
		const struct option *option = &options[i];
		size_t len = strlen(option->name);

		if (is_long && strncmp(arg + 2, option->name, len) == 0 &&
		    (arg[2 + len] == '\0' || arg[2 + len] == '=')) {
			*ret_value = arg[2 + len] == '=' ? arg + 3 + len : NULL;
			return option;
		}
		if (!is_long && arg[0] == '-' && arg[1] != '\0' && arg[1] == option->letter) {
			*ret_value = arg[2] != '\0' ? arg + 2 : NULL;
			return option;
		}
	}
	return NULL;
}

static void
default_cpus(struct daemon_options *o)
{
	struct cpumask allowed;
	unsigned cpu, count = 0;

	allowed_cpus(&allowed);
	CPUMASK_FOREACH (cpu, &allowed) {
		if (count++ < DAEMON_REACTORS_DEFAULT_MAX) {
			cpumask_set(&o->cpus, cpu);
		}
	}
}

static int
take(struct daemon_options *o, int argc, char *const argv[], int *i, struct err *err)
{
	const char *arg = argv[*i], *value;
	const struct option *option = find(arg, &value);
	int rc;

	if (option == NULL) {
		return arg[0] == '-'
			       ? err_set(err, -EINVAL, "unknown option %.128s", arg)
			       : err_set(err, -EINVAL,
					 "'%.128s' is not an option; berthd takes options only",
					 arg);
	}
	if (option->has_value && value == NULL) {
		if (*i + 1 >= argc) {
			return err_set(err, -EINVAL, "option %.128s needs a value", arg);
		}
		value = argv[++*i];
	}
	if (option->has_value && value[0] == '\0') {
		return err_set(err, -EINVAL, "option --%s has an empty value", option->name);
	}
	if (!option->has_value && value != NULL) {
		return err_set(err, -EINVAL, "option --%s takes no value", option->name);
	}
	rc = option->set(o, value, err);
	if (rc != 0) {
		err_prefix(err, "option --%s: ", option->name);
	}
	return rc;
}

/* What is said of a way in that is not there is a mistake. */
static int
check_rpc(const struct daemon_options *o, struct err *err)
{
	bool of_tcp = o->rpc.token_file != NULL || o->rpc.tls_dir != NULL;
	bool of_unix = o->rpc.has_group || o->rpc.peers.uid_count > 0 || o->rpc.mode != 0;

	if (o->rpc_address != NULL && !of_tcp) {
		return err_set(err, -EINVAL,
			       "-r %.64s: a TCP address needs authentication: a token (--rpc-token-file) or TLS with "
			       "certificates of the clients (--rpc-tls)",
			       o->rpc_address);
	}
	if (o->rpc_address == NULL && of_tcp) {
		return err_set(err, -EINVAL, "--rpc-token-file and --rpc-tls are for a TCP address (-r HOST:PORT)");
	}
	if (o->rpc_address != NULL && o->rpc_socket == NULL && of_unix) {
		return err_set(err, -EINVAL, "--rpc-user, --rpc-group and --rpc-mode are for a unix socket (-r PATH)");
	}
	return 0;
}

int
daemon_options_parse(int argc, char *const argv[], struct daemon_options *ret_options,
		     struct err *err)
{
	struct daemon_options o = {.mode = REACTOR_ADAPTIVE};
	int rc;

	for (int i = 1; i < argc; i++) {
		rc = take(&o, argc, argv, &i, err);
		if (rc != 0) {
			return rc;
		}
	}
	rc = o.action == DAEMON_RUN ? check_rpc(&o, err) : 0;
	if (rc != 0) {
		return rc;
	}
	if (o.rpc_socket == NULL && o.rpc_address == NULL) {
		o.rpc_socket = DAEMON_RPC_SOCKET;
	}
	if (!o.pinned) {
		default_cpus(&o);
	}
	*ret_options = o;
	return 0;
}
