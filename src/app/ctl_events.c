/* SPDX-License-Identifier: BSD-3-Clause */
/* berth events: what happens in the target, a line each, until it ends or is interrupted. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "app/ctl.h"
#include "rpc/rpc.h"

/* Shown in front, or not at all. */
static bool
is_shown_already(const char *key)
{
	static const char *const keys[] = {"type", "time", "name", "id", NULL};
	size_t i = 0;

	while (keys[i] != NULL && strcmp(keys[i], key) != 0) {
		i++;
	}
	return keys[i] != NULL;
}

static void
print_time(const json_t *event)
{
	double seconds = json_number_value(json_object_get(event, "time"));
	time_t whole = (time_t)seconds;
	struct tm tm;
	char text[32];

	if (seconds > 0 && localtime_r(&whole, &tm) != NULL) {
		strftime(text, sizeof(text), "%H:%M:%S", &tm);
		printf("%s.%03d ", text, (int)((seconds - (double)whole) * 1000));
	}
}

static void
print_event(const json_t *event)
{
	const char *type = json_string_value(json_object_get(event, "type"));
	const char *name = json_string_value(json_object_get(event, "name"));
	const char *key;
	json_t *value;

	print_time(event);
	printf("%s%s%s", type != NULL ? type : "?", name != NULL ? " " : "", name != NULL ? name : "");
	json_object_foreach((json_t *)event, key, value) {
		char *text = is_shown_already(key) ? NULL : json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);

		if (text != NULL) {
			printf(" %s=%s", key, text);
		}
		free(text);
	}
	putchar('\n');
}

static int
print_next(struct ctl *ctl)
{
	json_t *message = NULL;
	const json_t *event;
	int rc = ctl_receive(ctl, &message);

	if (rc == CTL_OK) {
		event = json_object_get(message, "params");
		if (ctl->json) {
			json_dumpf(event, stdout, JSON_COMPACT);
			putchar('\n');
		} else {
			print_event(event);
		}
		json_decref(message);
		/* Whoever reads the pipe has left. */
		rc = fflush(stdout) == 0 ? CTL_OK : CTL_BROKEN;
	}
	return rc;
}

static int
subscribe(struct ctl *ctl, int argc, char **argv)
{
	json_t *types = argc > 1 ? json_array() : NULL, *result = NULL;
	int rc;

	for (int i = 1; i < argc; i++) {
		json_array_append_new(types, json_string(argv[i]));
	}
	rc = ctl_call(ctl, "events", "berth_subscribe", json_pack("{s:o*}", "types", types), &result, NULL);
	json_decref(result);
	return rc;
}

int
ctl_events(struct ctl *ctl, int argc, char **argv)
{
	const char *text = NULL;
	struct err err = ERR_NONE;
	uint64_t count = 0;
	int rc;

	if (ctl_take_option(&argc, argv, "--count", &text) < 0) {
		return CTL_USAGE;
	}
	if (text != NULL && (ctl_size(text, &count, &err) != 0 || count == 0)) {
		return ctl_usage("events", "--count is '%s', but must be a number from 1 on", text);
	}
	rc = ctl_check_arguments("events", argc, argv, 0, 64);
	if (rc == CTL_OK) {
		rc = subscribe(ctl, argc, argv);
	}
	for (uint64_t n = 0; rc == CTL_OK && (count == 0 || n < count); n++) {
		rc = print_next(ctl);
	}
	return rc;
}
