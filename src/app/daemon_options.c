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
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

const char daemon_help[] =
	"usage: berthd [options]\n"
	"\n"
	"Serves block devices to virtual machines over vhost-user sockets; see berthd(8).\n"
	"\n"
	"  -c, --config FILE      JSON configuration, as `berth config save` and SPDK's "
	"save_config write it\n"
	"  -r, --rpc-socket PATH  JSON-RPC socket (default " DAEMON_RPC_SOCKET ")\n"
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
	o->rpc_socket = value;
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
	const struct group *group = getgrnam(value);
	unsigned long number;
	char *end;

	o->has_socket_group = true;
	if (group != NULL) {
		o->socket_group = group->gr_gid;
		return 0;
	}
	number = strtoul(value, &end, 10);
	if (!isdigit((unsigned char)value[0]) || *end != '\0' || number >= UINT32_MAX) {
		return err_set(err, -EINVAL, "there is no group '%.64s'", value);
	}
	o->socket_group = (gid_t)number;
	return 0;
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

int
daemon_options_parse(int argc, char *const argv[], struct daemon_options *ret_options,
		     struct err *err)
{
	struct daemon_options o = {.rpc_socket = DAEMON_RPC_SOCKET, .mode = REACTOR_ADAPTIVE};

	for (int i = 1; i < argc; i++) {
		int rc = take(&o, argc, argv, &i, err);

		if (rc != 0) {
			return rc;
		}
	}
	if (!o.pinned) {
		default_cpus(&o);
	}
	*ret_options = o;
	return 0;
}
