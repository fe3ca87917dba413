/* SPDX-License-Identifier: BSD-3-Clause */
/* The berth command: global options, the table of sub-commands, help. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/ctl.h"

static int run_help(struct ctl *ctl, int argc, char **argv);

const struct ctl_command ctl_commands[] = {
	{.name = "disk",
	 .arguments = "create NAME SIZE | list [NAME] | resize NAME SIZE | delete NAME",
	 .summary = "disks for VMs: a thin volume each, with a vhost-user-blk socket",
	 .help = "  create NAME SIZE     size such as 512M, 10G, 1T\n"
		 "    --block-size N     512 (default), 1024, 2048 or 4096 bytes\n"
		 "    --backend NAME     volume (default) of the store of disks; or a sparse file of its own: file, uring, aio\n"
		 "    --readonly         VMs may only read\n"
		 "    --existing         takes the volume or file that is there, unchanged\n"
		 "    --uuid UUID        of the disk; a new one by default\n"
		 "    --store-size SIZE  of the store, if this makes it: else what its file system has free\n"
		 "  list [NAME]\n"
		 "  resize NAME SIZE     larger while a VM uses it; a volume also smaller while none is connected\n"
		 "  delete NAME          even while a VM uses it\n"
		 "    --keep-file        leaves the volume or file where it is\n",
	 .run = ctl_disk},
	{.name = "volume",
	 .arguments = "create NAME SIZE | list [STORE] | show NAME | snapshot NAME SNAPSHOT | clone SNAPSHOT NAME"
		      " | resize NAME SIZE | rename NAME NEW | delete NAME | inflate NAME | send NAME | receive [NAME]"
		      " | import FILE NAME",
	 .summary = "thin volumes, snapshots and clones, in volume stores",
	 .help = "  NAME                 or STORE/NAME, or a UUID; a new one goes to the only store, or that of the disks\n"
		 "  create NAME SIZE\n"
		 "    --store STORE      where it goes; also of receive and import\n"
		 "    --thick            all of its space is taken now\n"
		 "    --encrypt KEY      a bdev NAME_crypt encrypts it, with a key of accel_crypto_key_create\n"
		 "  list [STORE], show NAME\n"
		 "  snapshot NAME SNAPSHOT [NAME SNAPSHOT ...]\n"
		 "                       several volumes at one instant\n"
		 "  clone SNAPSHOT NAME\n"
		 "  resize NAME SIZE, rename NAME NEW, delete NAME\n"
		 "  inflate NAME         makes it independent of its parent, and thick\n"
		 "    --thin             only copies what the parent has; holes of an image stay holes\n"
		 "  send NAME            a snapshot to standard output; of a volume it makes one\n"
		 "    --from SNAPSHOT    only what has changed since\n"
		 "    --snapshot NAME    of the snapshot that it makes\n"
		 "  receive [NAME]       a stream of send on standard input becomes a volume with a snapshot, or is added to it\n"
		 "    --snapshot NAME    of the snapshot; else what the sender called it\n"
		 "  import FILE NAME     a raw or qcow2 image, which is read as the volume needs it\n"
		 "    --copy             copies it all now: the file is not needed afterwards\n"
		 "    --format FORMAT    raw or qcow2; else the file's first bytes say\n",
	 .run = ctl_volume},
	{.name = "store",
	 .arguments = "list [STORE] | create STORE BDEV | grow STORE | check PATH | dump PATH | salvage PATH DIR [VOLUME ...]",
	 .summary = "volume stores",
	 .help = "  list [STORE]\n"
		 "  create STORE BDEV    what is on the bdev is lost\n"
		 "    --cluster-size SIZE  64K (default) or more\n"
		 "  grow STORE           takes up what its bdev has grown by; the store of disks grows its file with the space\n"
		 "                       that its file system has\n"
		 "    --size SIZE        of the store of disks: to this size\n"
		 "Of a file or block device PATH that no berthd has open:\n"
		 "  check PATH           what of the store cannot be; nothing is written\n"
		 "    --repair           mends it, and says what was done\n"
		 "    --rebuild-super    when the super block is gone: by what is left\n"
		 "  dump PATH            all that the metadata says\n"
		 "  salvage PATH DIR [VOLUME ...]\n"
		 "                       what volumes hold, as sparse files in DIR; all volumes without a name, UUID or blob id\n"
		 "    --cluster-size SIZE  of all three, where the super block is gone and nothing else says it\n"
		 "Exit code of these: 0 no damage, 1 repaired, 4 damage is left, 8 it could not be done.\n",
	 .run = ctl_store},
	{.name = "export",
	 .arguments = "BDEV [options] | --list | --remove NAME",
	 .summary = "disks and other bdevs for NBD clients",
	 .help = "  BDEV                 the disk or bdev; prints the URI that NBD clients take\n"
		 "    --unix PATH        at a unix socket, or\n"
		 "    --tcp HOST:PORT    at a TCP address: an IP address, localhost, or * for all of this machine; without\n"
		 "                       either at a unix socket in the socket directory\n"
		 "    --name NAME        what clients call it; the bdev's name unless given\n"
		 "    --description TEXT   words that clients may show\n"
		 "    --changed-since SNAPSHOT   what the context berth:changed compares a volume with (default: its parent)\n"
		 "    --read-only        clients may only read\n"
		 "    --tls-certs DIR    TLS with server-cert.pem and server-key.pem of the folder\n"
		 "    --tls-psk FILE     TLS with the keys of the file\n"
		 "    --tls-verify-peer  only clients that ca-cert.pem of the folder vouches for\n"
		 "  --list               exports and their URIs\n"
		 "  --remove NAME        even while clients use it\n",
	 .run = ctl_export},
	{.name = "status",
	 .arguments = "",
	 .summary = "how the target is",
	 .help = "",
	 .run = ctl_status},
	{.name = "top",
	 .arguments = "[options]",
	 .summary = "what controllers, threads and cores do, live",
	 .help = "  -d, --delay SECONDS  between two pictures (1)\n"
		 "  -n, --count N        ends after N pictures\n"
		 "      --view VIEW      controllers (default), threads or cores\n"
		 "      --sort COLUMN    names are those of --json\n"
		 "      --reverse        the other way round\n"
		 "      --filter TEXT    only rows that have it in them\n"
		 "      --once           one picture as text, as where standard output is no terminal\n"
		 "      --text           text on a terminal, too\n"
		 "Live, h shows the keys and what the columns mean.\n",
	 .run = ctl_top},
	{.name = "iostat",
	 .arguments = "[BDEV ...]",
	 .summary = "what block devices do: rates, latencies, queue depths",
	 .help = "  BDEV                 by name, alias or UUID; all without one\n"
		 "    --interval SECONDS between two reports, of which each is about the time since the one before (1);\n"
		 "                       goes on until it is interrupted\n"
		 "    --count N          ends after N reports\n"
		 "R US and W US: average latency in microseconds. QUEUE: requests under way, on average. %UTIL: of the time\n"
		 "that there was any, where `berth rpc bdev_set_qd_sampling_period` has it looked at.\n",
	 .run = ctl_iostat},
	{.name = "histogram",
	 .arguments = "BDEV",
	 .summary = "how long a block device's requests take, as a picture",
	 .help = "    --time SECONDS     of the requests of so long from now on; else of all since\n"
		 "                       `berth rpc bdev_enable_histogram`\n"
		 "    --op NAME          of this operation: read, write, flush, ...\n"
		 "Bars are logarithmic: one request is seen beside a million.\n",
	 .run = ctl_histogram},
	{.name = "doctor",
	 .arguments = "[options]",
	 .summary = "what is well with this host and its berthd, what is not, and what to do",
	 .help = "      --sample SECONDS  how long to look (1)\n"
		 "      --state-dir DIR, --socket-dir DIR\n"
		 "                        to look at before berthd is started with them\n"
		 "Exit code 1 when something is BAD.\n",
	 .run = ctl_doctor},
	{.name = "mode",
	 .arguments = "[MODE]",
	 .summary = "how the reactors wait: shows it, or changes it while they work",
	 .help = "  MODE                 poll, interrupt or adaptive, in letters of either case; until the next start\n"
		 "                       of berthd\n"
		 "    --core N           of one reactor, both to show and to change\n",
	 .run = ctl_mode},
	{.name = "jobs",
	 .arguments = "[ID] | wait ID | cancel ID",
	 .summary = "long work in the background: how far it is, and an end to it",
	 .help = "  [ID]                 all of them, or one; ended ones are kept for an hour\n"
		 "  wait ID              until it has ended: exit code 0 when it was done, 1 when not\n"
		 "  cancel ID            asks it to stop\n",
	 .run = ctl_jobs},
	{.name = "events",
	 .arguments = "[TYPE ...]",
	 .summary = "what happens, as it happens",
	 .help = "  TYPE                 of `berth rpc notify_get_types`; all without one\n"
		 "    --count N          ends after N of them\n"
		 "With --json a line of JSON each.\n",
	 .run = ctl_events},
	{.name = "config",
	 .arguments = "save [FILE] | load FILE",
	 .summary = "the configuration of the running target, as SPDK's save_config writes it",
	 .help = "  save [FILE]          to standard output without a file\n"
		 "  load FILE            makes the calls of the file; - is standard input\n"
		 "    --skip-unknown     leaves calls out whose method does not exist\n",
	 .run = ctl_config},
	{.name = "rpc",
	 .arguments = "METHOD [key=value ...] | METHOD --help | --list",
	 .summary = "calls any JSON-RPC method",
	 .help = "Values are typed by the method's parameters: numbers may be 0x200 or 64K, bools true or false,\n"
		 "arrays of strings words with commas between or JSON, objects JSON. An argument - reads a JSON object\n"
		 "of parameters from standard input.\n"
		 "\n"
		 "  --list               all methods\n"
		 "  METHOD --help        a method, its parameters and result\n",
	 .run = ctl_rpc},
	{.name = "perf",
	 .arguments = "--bdev BDEV | --socket PATH | --jobs FILE",
	 .summary = "measures a bdev in this process, or a vhost-user-blk socket",
	 .help = "",
	 .own_options = true,
	 .run = ctl_perf},
	{.name = "completion",
	 .arguments = "bash",
	 .summary = "prints shell completion: source <(berth completion bash)",
	 .help = "",
	 .run = ctl_completion},
	{.name = "help",
	 .arguments = "[COMMAND]",
	 .summary = "shows this, or the help of a command",
	 .help = "",
	 .run = run_help},
	{.name = NULL},
};

static const char global_help[] =
	"\n"
	"  -s, --socket PATH    JSON-RPC socket of berthd (default: $BERTH_SOCKET, else " CTL_SOCKET ")\n"
	"  -s HOST:PORT         berthd over TCP\n"
	"      --token-file FILE  whose first line it wants to see (default: $BERTH_TOKEN_FILE)\n"
	"      --tls DIR        TLS: ca-cert.pem, and client-cert.pem with client-key.pem where it wants them\n"
	"                       (default: $BERTH_TLS_DIR)\n"
	"      --json           output for programs\n"
	"      --timeout SECONDS  for each answer (default 60)\n"
	"  -h, --help\n"
	"      --version\n"
	"\n"
	"Exit code: 0 done, 1 refused by the target, 2 wrong command line or file, 3 no target on the socket,\n"
	"4 no answer in time, connection lost or output not written.\n";

static void
print_help(void)
{
	printf("usage: berth [options] COMMAND ...\n\n");
	for (const struct ctl_command *c = ctl_commands; c->name != NULL; c++) {
		printf("  %-12s %s\n", c->name, c->summary);
	}
	fputs(global_help, stdout);
}

void
ctl_print_command(const struct ctl_command *c)
{
	const char *part = c->arguments;
	const char *next;

	do {
		next = strstr(part, " | ");
		printf("%s berth %s%s%.*s\n", part == c->arguments ? "usage:" : "      ", c->name, *part != '\0' ? " " : "",
		       next != NULL ? (int)(next - part) : (int)strlen(part), part);
		part = next != NULL ? next + 3 : NULL;
	} while (part != NULL);
	printf("\n%c%s.\n", toupper((unsigned char)c->summary[0]), c->summary + 1);
	if (c->help[0] != '\0') {
		printf("\n%s", c->help);
	}
	fputs(global_help, stdout);
}

static const struct ctl_command *
find_command(const char *name)
{
	for (const struct ctl_command *c = ctl_commands; c->name != NULL; c++) {
		if (strcmp(c->name, name) == 0) {
			return c;
		}
	}
	return NULL;
}

static int
run_help(struct ctl *ctl, int argc, char **argv)
{
	const struct ctl_command *c = argc > 1 ? find_command(argv[1]) : NULL;
	const struct rpc_schema *schema = argc > 1 ? rpc_schema_find(argv[1]) : NULL;

	if (argc < 2) {
		print_help();
	} else if (c != NULL && c->own_options) {
		char *help[] = {argv[1], (char[]){"--help"}, NULL};

		return c->run(ctl, 2, help);
	} else if (c != NULL) {
		ctl_print_command(c);
	} else if (schema != NULL) {
		ctl_print_method(schema);
	} else {
		return ctl_usage("help", "there is no command '%s'", argv[1]);
	}
	return CTL_OK;
}

/* ---- Global options ---- */

static int
take_timeout(struct ctl *ctl, const char *text)
{
	char *end;
	unsigned long seconds = strtoul(text, &end, 10);

	if (!isdigit((unsigned char)text[0]) || *end != '\0' || seconds < 1 || seconds > 86400) {
		return ctl_usage("", "--timeout is '%s', but must be 1 to 86400 seconds", text);
	}
	ctl->timeout_s = (unsigned)seconds;
	return CTL_OK;
}

/* They may stand anywhere. */
static int
take_global_options(struct ctl *ctl, int *argc, char **argv)
{
	const char *timeout = NULL;

	int short_form = ctl_take_option(argc, argv, "-s", &ctl->socket);
	int long_form = ctl_take_option(argc, argv, "--socket", &ctl->socket);

	if (short_form < 0 || long_form < 0 || ctl_take_option(argc, argv, "--timeout", &timeout) < 0 ||
	    ctl_take_option(argc, argv, "--token-file", &ctl->token_file) < 0 ||
	    ctl_take_option(argc, argv, "--tls", &ctl->tls_dir) < 0) {
		return CTL_USAGE;
	}
	if (short_form + long_form > 1) {
		return ctl_usage("", "-s and --socket are the same, and both are given");
	}
	ctl->json |= ctl_take_option(argc, argv, "--json", NULL) == 1;
	ctl->help |= ctl_take_option(argc, argv, "--help", NULL) == 1;
	ctl->help |= ctl_take_option(argc, argv, "-h", NULL) == 1;
	return timeout != NULL ? take_timeout(ctl, timeout) : CTL_OK;
}

static bool
takes_its_own(int argc, char **argv)
{
	const struct ctl_command *c = argc > 1 ? find_command(argv[1]) : NULL;

	return c != NULL && c->own_options;
}

/* What completion is asked about may look like options of its own. */
static bool
completes_words(int argc, char **argv)
{
	return argc > 2 && strcmp(argv[1], "completion") == 0 && strcmp(argv[2], "words") == 0;
}

static int
run(struct ctl *ctl, int argc, char **argv)
{
	const struct ctl_command *c;
	int rc = CTL_OK;

	if (!takes_its_own(argc, argv) && !completes_words(argc, argv)) {
		rc = take_global_options(ctl, &argc, argv);
	}
	if (rc != CTL_OK) {
		return rc;
	}
	if (argc < 2 && ctl->help) {
		print_help();
		return CTL_OK;
	}
	if (argc < 2) {
		return ctl_usage("", "a command is missing");
	}
	if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
		printf("berth %s\n", BERTH_VERSION);
		return CTL_OK;
	}
	c = find_command(argv[1]);
	if (c == NULL) {
		return ctl_usage("", argv[1][0] == '-' ? "there is no option %s" : "there is no command '%s'", argv[1]);
	}
	/* `rpc METHOD --help` is about the method. */
	if (ctl->help && !(c->run == ctl_rpc && argc > 2)) {
		ctl_print_command(c);
		return CTL_OK;
	}
	return c->run(ctl, argc - 1, argv + 1);
}

int
main(int argc, char **argv)
{
	struct ctl ctl = {.socket = getenv("BERTH_SOCKET"), .timeout_s = CTL_TIMEOUT_S, .stream = {.fd = -1}};
	int rc;

	if (ctl.socket == NULL || ctl.socket[0] == '\0') {
		ctl.socket = CTL_SOCKET;
	}
	ctl.token_file = getenv("BERTH_TOKEN_FILE");
	ctl.tls_dir = getenv("BERTH_TLS_DIR");
	rc = run(&ctl, argc, argv);
	ctl_disconnect(&ctl);
	if (fflush(stdout) != 0 || ferror(stdout)) {
		fprintf(stderr, "berth: cannot write the output\n");
		return rc == CTL_OK ? CTL_BROKEN : rc;
	}
	return rc;
}
