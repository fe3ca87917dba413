/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The berth command: what its sub-commands share. One process, one system thread, blocking; each sub-command
 * returns an exit code and has said on standard error what went wrong.
 */
#ifndef APP_CTL_H
#define APP_CTL_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "rpc/schema.h"
#include "sock/stream.h"

#define CTL_SOCKET "/var/tmp/berth.sock"
#define CTL_TIMEOUT_S 60
#define CTL_WAITING_MS 200
/* The volume store in the state directory, which berth_disk_create makes. */
#define CTL_STORE_OF_DISKS "disks"

enum ctl_exit {
	CTL_OK = 0,
	CTL_REFUSED = 1,     /* the target answered with an error */
	CTL_USAGE = 2,       /* wrong command line or input file */
	CTL_UNREACHABLE = 3, /* nothing answers on the socket */
	CTL_BROKEN = 4,      /* no answer in time, connection lost, output cannot be written */
};

struct ctl {
	const char *socket; /* path, or HOST:PORT */
	const char *token_file; /* of TCP; NULL: no token */
	const char *tls_dir;    /* of TCP; NULL: no TLS */
	bool json;
	bool help;
	bool quiet; /* it has been said already what is wrong: that the connection has ended, too, is not */
	unsigned timeout_s;
	/* While an answer is awaited, every CTL_WAITING_MS; false: ctl_call gives up without a word. NULL: nobody asks. */
	bool (*waiting)(void *ctx);
	void *waiting_ctx;
	struct stream stream; /* fd -1: not connected yet */
	json_int_t last_id;
	char *in; /* what came and was not taken yet */
	size_t in_len, in_capacity;
};

struct ctl_command {
	const char *name;
	const char *arguments; /* for the usage line */
	const char *summary;
	const char *help; /* lines below the usage line */
	bool own_options; /* run gets every argument, global options included */
	int (*run)(struct ctl *ctl, int argc, char **argv); /* argv[0] is the command's name */
};

extern const struct ctl_command ctl_commands[]; /* ends with a NULL name */

/* ---- Talking to the target (ctl_client.c) ---- */

/*
 * Calls method; takes params, which may be NULL. CTL_OK: *ret_result is a new reference. Otherwise the
 * reason has been printed, as context: text, unless ret_error is given and the target refused: then *ret_error is the
 * error object, new reference.
 */
int ctl_call(struct ctl *ctl, const char *context, const char *method, json_t *params, json_t **ret_result,
	     json_t **ret_error);
/* What the target sends next, an event after berth_subscribe; waits for it as long as it takes. New reference. */
int ctl_receive(struct ctl *ctl, json_t **ret_message);
void ctl_disconnect(struct ctl *ctl);
/* Prints a refusal as ctl_call does, on standard output besides when --json asks for it. Returns CTL_REFUSED. */
int ctl_refused(const struct ctl *ctl, const char *context, const json_t *error);

/* ---- Arguments (ctl_args.c) ---- */

/* One value as the schema wants it; param NULL: JSON where it is JSON, else a string. NULL with err. New reference. */
json_t *ctl_value(const struct rpc_param *param, const char *text, struct err *err);
/* key=value arguments into params; schema NULL: a method that this program does not know. 0 or -EINVAL. */
int ctl_key_values(const struct rpc_schema *schema, int argc, char **argv, json_t *params, struct err *err);
/* "512", "0x200", "64K", "1G", "1GiB": bytes. 0 or -EINVAL. */
int ctl_size(const char *text, uint64_t *ret_bytes, struct err *err);

/* Takes option `name` (with leading dashes) out of argv, argv[1] on. ret_value NULL: a flag. 1: it was there; 0: not;
 * -EINVAL: its value is missing, or there are two (printed). */
int ctl_take_option(int *argc, char **argv, const char *name, const char **ret_value);
/* The arguments that are left: prints a usage error unless there are min to max of them and none is an option. */
int ctl_check_arguments(const char *command, int argc, char **argv, int min, int max);
int ctl_usage(const char *command, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* ---- Output (ctl_print.c) ---- */

void ctl_print_json(const json_t *json);
/* "1 GiB", "1.5 GiB", "100 B" */
const char *ctl_bytes(uint64_t bytes, char text[static 32]);

#define CTL_COLUMNS_MAX 12
struct ctl_table {
	unsigned columns;
	uint32_t right; /* a bit for each column of numbers */
	char *(*rows)[CTL_COLUMNS_MAX];
	size_t count, capacity;
};

/* A row of table->columns strings, copied; the first one is the heading. */
void ctl_table_row(struct ctl_table *table, ...);
/* Prints and releases. */
void ctl_table_print(struct ctl_table *table);

/* ---- Reactors (ctl_mode.c): an element of `details` of framework_get_reactors ---- */

/* Its mode for a reader, NULL when it says none: "poll (as adaptive)" while its CPU is not its own. */
const char *ctl_reactor_mode(const json_t *details);
/* Whether it uses a whole CPU without having work. */
bool ctl_reactor_polls(const json_t *details);

/* ---- Sub-commands ---- */

int ctl_rpc(struct ctl *ctl, int argc, char **argv);
int ctl_disk(struct ctl *ctl, int argc, char **argv);
int ctl_export(struct ctl *ctl, int argc, char **argv);
int ctl_volume(struct ctl *ctl, int argc, char **argv);
int ctl_store(struct ctl *ctl, int argc, char **argv);
int ctl_status(struct ctl *ctl, int argc, char **argv);
int ctl_mode(struct ctl *ctl, int argc, char **argv);
int ctl_jobs(struct ctl *ctl, int argc, char **argv);
int ctl_events(struct ctl *ctl, int argc, char **argv);
int ctl_config(struct ctl *ctl, int argc, char **argv);
int ctl_perf(struct ctl *ctl, int argc, char **argv);
int ctl_top(struct ctl *ctl, int argc, char **argv);
int ctl_iostat(struct ctl *ctl, int argc, char **argv);
int ctl_histogram(struct ctl *ctl, int argc, char **argv);
int ctl_doctor(struct ctl *ctl, int argc, char **argv);
int ctl_completion(struct ctl *ctl, int argc, char **argv);

/* Help of a method from the schema. */
void ctl_print_method(const struct rpc_schema *schema);
void ctl_print_command(const struct ctl_command *command);

#endif
