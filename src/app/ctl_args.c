/* SPDX-License-Identifier: BSD-3-Clause */
/* From the words of a command line to JSON, by the schema. */
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "app/ctl.h"
#include "base/check.h"

/* ---- Numbers ---- */

/* Power of 1024 that a suffix stands for, -1 when it is none. */
static int
suffix_power(const char *suffix)
{
	static const char letters[] = "KMGTPE";
	const char *at;

	if (suffix[0] == '\0' || strcasecmp(suffix, "B") == 0) {
		return 0;
	}
	at = strchr(letters, toupper((unsigned char)suffix[0]));
	if (at == NULL || (suffix[1] != '\0' && strcasecmp(suffix + 1, "iB") != 0 && strcasecmp(suffix + 1, "B") != 0)) {
		return -1;
	}
	return (int)(at - letters) + 1;
}

/* A whole number with an optional minus sign and suffix, in decimal or hexadecimal. */
static int
parse_number(const char *text, bool negative_too, int64_t *ret_number)
{
	const char *digits = text[0] == '-' && negative_too ? text + 1 : text;
	int base = digits[0] == '0' && (digits[1] == 'x' || digits[1] == 'X') ? 16 : 10;
	unsigned long long number;
	char *rest;
	int power;

	if (!isdigit((unsigned char)digits[0])) {
		return -EINVAL;
	}
	errno = 0;
	number = strtoull(digits, &rest, base);
	power = suffix_power(rest);
	if (errno != 0 || power < 0) {
		return -EINVAL;
	}
	for (; power > 0; power--) {
		if (number > INT64_MAX / 1024) {
			return -EINVAL;
		}
		number *= 1024;
	}
	if (number > INT64_MAX) {
		return -EINVAL;
	}
	*ret_number = digits == text ? (int64_t)number : -(int64_t)number;
	return 0;
}

int
ctl_size(const char *text, uint64_t *ret_bytes, struct err *err)
{
	int64_t bytes;

	if (parse_number(text, false, &bytes) != 0) {
		return err_set(err, -EINVAL, "'%.64s' is no size such as 512M, 10G or 1T, and less than 8E", text);
	}
	*ret_bytes = (uint64_t)bytes;
	return 0;
}

/* ---- Values ---- */

static json_t *
bool_value(const struct rpc_param *param, const char *text, struct err *err)
{
	static const char *const words[] = {"false", "true", "no", "yes", "off", "on", "0", "1"};

	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		if (strcasecmp(text, words[i]) == 0) {
			return json_boolean(i % 2);
		}
	}
	err_set(err, -EINVAL, "%s is '%.64s', but must be true or false", param->name, text);
	return NULL;
}

static json_t *
number_value(const struct rpc_param *param, const char *text, struct err *err)
{
	int64_t number;

	if (parse_number(text, param->type == RPC_TYPE_INT64, &number) != 0) {
		err_set(err, -EINVAL, "%s is '%.64s', but must be a number such as 512, 0x200 or 64K", param->name, text);
		return NULL;
	}
	return json_integer(number);
}

static json_t *
string_value(const char *name, const char *text, struct err *err)
{
	json_t *value = json_string(text);

	if (value == NULL) {
		err_set(err, -EINVAL, "%s is no UTF-8", name);
	}
	return value;
}

static json_t *
json_value(const struct rpc_param *param, const char *text, struct err *err)
{
	json_error_t fault;
	json_t *value = json_loads(text, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &fault);

	if (value == NULL) {
		err_set(err, -EINVAL, "%s must be JSON: %s", param->name, fault.text);
	}
	return value;
}

/* JSON, or words with commas between. */
static json_t *
strings_value(const struct rpc_param *param, const char *text, struct err *err)
{
	json_t *array;

	if (text[0] == '[') {
		return json_value(param, text, err);
	}
	array = json_array();
	while (*text != '\0') {
		size_t len = strcspn(text, ",");

		if (json_array_append_new(array, json_stringn(text, len)) != 0) {
			err_set(err, -EINVAL, "%s is no UTF-8", param->name);
			json_decref(array);
			return NULL;
		}
		text += len;
		text += *text == ',';
	}
	return array;
}

json_t *
ctl_value(const struct rpc_param *param, const char *text, struct err *err)
{
	json_t *value;

	if (param == NULL) {
		value = json_loads(text, JSON_DECODE_ANY, NULL);
		return value != NULL ? value : string_value("a value", text, err);
	}
	switch (param->type) {
	case RPC_TYPE_BOOL:
		return bool_value(param, text, err);
	case RPC_TYPE_UINT32:
	case RPC_TYPE_UINT64:
	case RPC_TYPE_INT64:
		return number_value(param, text, err);
	case RPC_TYPE_STRINGS:
		return strings_value(param, text, err);
	case RPC_TYPE_OBJECT:
	case RPC_TYPE_JSON:
		return json_value(param, text, err);
	case RPC_TYPE_STRING:
	case RPC_TYPE_ENUM:
	case RPC_TYPE_UUID:
		break;
	}
	return string_value(param->name, text, err);
}

int
ctl_key_values(const struct rpc_schema *schema, int argc, char **argv, json_t *params, struct err *err)
{
	for (int i = 0; i < argc; i++) {
		const char *equals = strchr(argv[i], '=');
		const struct rpc_param *param = NULL;
		char key[64];
		json_t *value;

		if (equals == NULL || equals == argv[i] || (size_t)(equals - argv[i]) >= sizeof(key)) {
			return err_set(err, -EINVAL, "'%.64s' is not of the form key=value", argv[i]);
		}
		snprintf(key, sizeof(key), "%.*s", (int)(equals - argv[i]), argv[i]);
		if (schema != NULL) {
			param = rpc_schema_param(schema, key);
			if (param == NULL) {
				return err_set(err, -EINVAL, "there is no parameter '%s'; see berth rpc %s --help", key,
					       schema->name);
			}
		}
		value = ctl_value(param, equals + 1, err);
		if (value == NULL) {
			return -EINVAL;
		}
		if (json_object_set_new(params, key, value) != 0) {
			return err_set(err, -EINVAL, "'%.64s' is no name of a parameter", key);
		}
	}
	return 0;
}

/* ---- Options ---- */

int
ctl_usage(const char *command, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "berth%s%s: ", command[0] != '\0' ? " " : "", command);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "; see berth %s%s--help\n", command, command[0] != '\0' ? " " : "");
	return CTL_USAGE;
}

static void
remove_arguments(int *argc, char **argv, int at, int count)
{
	memmove(argv + at, argv + at + count, (size_t)(*argc - at - count + 1) * sizeof(*argv));
	*argc -= count;
}

static int
take_one(int *argc, char **argv, const char *name, const char **ret_value)
{
	size_t len = strlen(name);

	for (int i = 1; i < *argc && strcmp(argv[i], "--") != 0; i++) {
		if (strcmp(argv[i], name) == 0 && ret_value == NULL) {
			remove_arguments(argc, argv, i, 1);
			return 1;
		}
		if (strcmp(argv[i], name) == 0) {
			if (i + 1 == *argc) {
				fprintf(stderr, "berth: %s wants a value\n", name);
				return -EINVAL;
			}
			*ret_value = argv[i + 1];
			remove_arguments(argc, argv, i, 2);
			return 1;
		}
		if (ret_value != NULL && strncmp(argv[i], name, len) == 0 && name[1] == '-' && argv[i][len] == '=') {
			*ret_value = argv[i] + len + 1;
			remove_arguments(argc, argv, i, 1);
			return 1;
		}
	}
	return 0;
}

int
ctl_take_option(int *argc, char **argv, const char *name, const char **ret_value)
{
	int rc = take_one(argc, argv, name, ret_value), more = rc;
	const char *second;

	while (more == 1) {
		more = take_one(argc, argv, name, ret_value != NULL ? &second : NULL);
		if (more == 1 && ret_value != NULL) {
			fprintf(stderr, "berth: %s is given twice, as '%s' and '%s'\n", name, *ret_value, second);
			return -EINVAL;
		}
	}
	return more < 0 ? more : rc;
}

int
ctl_check_arguments(const char *command, int argc, char **argv, int min, int max)
{
	for (int i = 1; i < argc; i++) {
		if (argv[i][0] == '-' && argv[i][1] != '\0') {
			return ctl_usage(command, "there is no option %s", argv[i]);
		}
	}
	if (argc - 1 < min) {
		return ctl_usage(command, "an argument is missing");
	}
	if (argc - 1 > max) {
		return ctl_usage(command, "'%s' is one argument too many", argv[max + 1]);
	}
	return CTL_OK;
}
