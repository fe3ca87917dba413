/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The one decoder of parameters.
 *
 * Invariants
 *  1. Each error names the parameter, what was given (but see 4) and what is wanted.
 *  2. Code schema->decode_error: a parameter is missing, unknown or of the wrong type. Code schema->range_error:
 *     the type is right, the value out of the schema's bounds. So SPDK answers, method by method.
 *  3. null counts as not given. A number may be written 1e3 or 5.0 when it is whole.
 *  4. What was given for a parameter that may be a secret is in no error, whatever its type is.
 */
#include "rpc/decode.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <uuid/uuid.h>

#include "base/check.h"

#define SHOWN_BYTES 64
#define NAMES_BYTES 320

struct decoder {
	const struct rpc_schema *schema;
	uint8_t *out;
	struct err *err;
};

/* What was given, short enough for a message. */
static const char *
show(const json_t *value, char text[static SHOWN_BYTES])
{
	char *all = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);

	if (all == NULL) {
		return "?";
	}
	if (strlen(all) < SHOWN_BYTES) {
		strcpy(text, all);
	} else {
		size_t cut = SHOWN_BYTES - 4;

		while (cut > 0 && ((unsigned char)all[cut] & 0xc0) == 0x80) {
			cut--;
		}
		memcpy(text, all, cut);
		strcpy(text + cut, "...");
	}
	free(all);
	return text;
}

static int
wrong_type(const struct decoder *d, const struct rpc_param *p, const json_t *value, const char *wanted)
{
	char shown[SHOWN_BYTES];

	err_set(d->err, -EINVAL, "%s: parameter '%s' is %s, but must be %s", d->schema->name, p->name,
		p->secret ? "something else (not shown)" : show(value, shown), wanted);
	return d->schema->decode_error;
}

static int
out_of_range(const struct decoder *d, const struct rpc_param *p, int64_t value, const char *fmt, int64_t bound)
{
	char wanted[96];

	snprintf(wanted, sizeof(wanted), fmt, bound);
	err_set(d->err, -EINVAL, "%s: parameter '%s' is %" PRId64 ", but must be %s", d->schema->name, p->name,
		value, wanted);
	return d->schema->range_error;
}

/* ---- Values by type ---- */

static bool
whole_number(const json_t *value, int64_t *ret_number)
{
	double real;

	if (json_is_integer(value)) {
		*ret_number = json_integer_value(value);
		return true;
	}
	real = json_is_real(value) ? json_real_value(value) : NAN;
	/* Above 2^53 a real does not say which whole number is meant. */
	if (!(fabs(real) <= 9007199254740992.0) || real != floor(real)) {
		return false;
	}
	*ret_number = (int64_t)real;
	return true;
}

static int
check_bounds(const struct decoder *d, const struct rpc_param *p, int64_t number)
{
	if (number < p->min) {
		return out_of_range(d, p, number, "at least %" PRId64, p->min);
	}
	if (number > p->max) {
		return out_of_range(d, p, number, "at most %" PRId64, p->max);
	}
	if (p->multiple_of != 0 && number % p->multiple_of != 0) {
		return out_of_range(d, p, number, "a multiple of %" PRId64, p->multiple_of);
	}
	if (p->power_of_two && (number <= 0 || (number & (number - 1)) != 0)) {
		return out_of_range(d, p, number, "a power of two", 0);
	}
	return 0;
}

/* What the type itself holds, whatever the bounds are. */
static bool
fits_type(enum rpc_type type, int64_t number)
{
	return type == RPC_TYPE_INT64 ||
	       (number >= 0 && (type == RPC_TYPE_UINT64 || number <= (int64_t)UINT32_MAX));
}

static void
store_number(const struct rpc_param *p, void *field, int64_t number)
{
	if (p->type == RPC_TYPE_UINT32) {
		*(uint32_t *)field = (uint32_t)number;
	} else if (p->type == RPC_TYPE_UINT64) {
		*(uint64_t *)field = (uint64_t)number;
	} else {
		*(int64_t *)field = number;
	}
}

static int
decode_number(const struct decoder *d, const struct rpc_param *p, const json_t *value, void *field)
{
	int64_t number;
	int rc;

	if (!whole_number(value, &number)) {
		return wrong_type(d, p, value, "a whole number");
	}
	if (!fits_type(p->type, number)) {
		return wrong_type(d, p, value, p->type == RPC_TYPE_UINT32 ? "a number from 0 to 4294967295" :
									    "a number from 0 on");
	}
	rc = check_bounds(d, p, number);
	if (rc == 0) {
		store_number(p, field, number);
	}
	return rc;
}

static int
decode_enum(const struct decoder *d, const struct rpc_param *p, const json_t *value, const char **field)
{
	char wanted[NAMES_BYTES] = "one of";
	size_t len = strlen(wanted);

	for (const char *const *v = p->values; *v != NULL; v++) {
		if (json_is_string(value) && strcasecmp(json_string_value(value), *v) == 0) {
			*field = *v;
			return 0;
		}
		if (len < sizeof(wanted)) {
			len += (size_t)snprintf(wanted + len, sizeof(wanted) - len, "%s\"%s\"",
						v == p->values ? " " : ", ", *v);
		}
	}
	return wrong_type(d, p, value, wanted);
}

static int
decode_strings(const struct decoder *d, const struct rpc_param *p, const json_t *value, struct rpc_strings *field)
{
	size_t i;
	const json_t *item;

	if (!json_is_array(value)) {
		return wrong_type(d, p, value, "an array of strings");
	}
	json_array_foreach(value, i, item) {
		if (!json_is_string(item)) {
			return wrong_type(d, p, item, "an array of nothing but strings");
		}
	}
	field->items = calloc(json_array_size(value) + 1, sizeof(*field->items));
	if (field->items == NULL) {
		return err_set(d->err, -ENOMEM, "%s: out of memory", d->schema->name);
	}
	field->count = json_array_size(value);
	json_array_foreach(value, i, item) {
		field->items[i] = json_string_value(item);
	}
	return 0;
}

static int
decode_value(const struct decoder *d, const struct rpc_param *p, const json_t *value)
{
	void *field = d->out + p->offset;

	switch (p->type) {
	case RPC_TYPE_BOOL:
		*(bool *)field = json_is_true(value);
		return json_is_boolean(value) ? 0 : wrong_type(d, p, value, "true or false");
	case RPC_TYPE_UINT32:
	case RPC_TYPE_UINT64:
	case RPC_TYPE_INT64:
		return decode_number(d, p, value, field);
	case RPC_TYPE_STRING:
		*(const char **)field = json_string_value(value);
		return json_is_string(value) ? 0 : wrong_type(d, p, value, "a string");
	case RPC_TYPE_ENUM:
		return decode_enum(d, p, value, field);
	case RPC_TYPE_UUID:
		if (!json_is_string(value) || uuid_parse(json_string_value(value), field) != 0) {
			return wrong_type(d, p, value, "a UUID such as 12345678-1234-4234-8234-123456789abc");
		}
		return 0;
	case RPC_TYPE_STRINGS:
		return decode_strings(d, p, value, field);
	case RPC_TYPE_OBJECT:
		*(const json_t **)field = value;
		return json_is_object(value) ? 0 : wrong_type(d, p, value, "an object");
	case RPC_TYPE_JSON:
		*(const json_t **)field = value;
		return 0;
	}
	CHECK(!"type of the schema");
	return 0;
}

/* A parameter that SPDK has and berth does not: only the value that changes nothing passes. */
static int
check_neutral(const struct decoder *d, const struct rpc_param *p, const json_t *value)
{
	int64_t number;

	if (p->type == RPC_TYPE_BOOL) {
		if (!json_is_boolean(value)) {
			return wrong_type(d, p, value, "true or false");
		}
		number = json_is_true(value);
	} else if (!whole_number(value, &number) || !fits_type(p->type, number)) {
		return wrong_type(d, p, value, "a whole number");
	}
	if (number != p->default_int) {
		char shown[SHOWN_BYTES];

		err_set(d->err, -EINVAL, "%s: parameter '%s' is %s, which is not supported; leave it out",
			d->schema->name, p->name, show(value, shown));
		return d->schema->range_error;
	}
	return 0;
}

/* ---- The whole ---- */

static void
set_default(const struct rpc_param *p, uint8_t *out)
{
	void *field = out + p->offset;

	if (!p->has_default) {
		return;
	}
	if (p->type == RPC_TYPE_BOOL) {
		*(bool *)field = p->default_int != 0;
	} else if (p->type == RPC_TYPE_STRING || p->type == RPC_TYPE_ENUM) {
		*(const char **)field = p->default_text;
	} else {
		store_number(p, field, p->default_int);
	}
}

static int
unknown_param(const struct decoder *d, const char *name)
{
	char names[NAMES_BYTES] = "";
	size_t len = 0;

	for (size_t i = 0; i < d->schema->param_count && len < sizeof(names); i++) {
		len += (size_t)snprintf(names + len, sizeof(names) - len, "%s%s", i == 0 ? "" : ", ",
					d->schema->params[i].name);
	}
	err_set(d->err, -EINVAL, "%s: there is no parameter '%.64s'; it takes %s", d->schema->name, name, names);
	return d->schema->decode_error;
}

static int
missing_param(const struct decoder *d, const struct rpc_param *p)
{
	err_set(d->err, -EINVAL, "%s: parameter '%s' (%s) is missing", d->schema->name, p->name,
		rpc_type_name(p->type));
	return d->schema->decode_error;
}

static int
decode_param(const struct decoder *d, const struct rpc_param *p, const json_t *params)
{
	const json_t *value = json_object_get(params, p->name);
	int rc;

	if (value == NULL || json_is_null(value)) {
		return p->required ? missing_param(d, p) : 0;
	}
	if (p->neutral) {
		return check_neutral(d, p, value);
	}
	rc = decode_value(d, p, value);
	if (rc == 0 && !p->required) {
		*(bool *)(d->out + p->has_offset) = true;
	}
	return rc;
}

/* The shape of params, and that every name in it is known. */
static int
check_names(const struct decoder *d, const json_t *params)
{
	const char *name;
	json_t *value;

	if (params == NULL || json_is_null(params) || (json_is_array(params) && json_array_size(params) == 0)) {
		return 0;
	}
	if (d->schema->param_count == 0 && !(json_is_object(params) && json_object_size(params) == 0)) {
		void *first = json_is_object(params) ? json_object_iter((json_t *)params) : NULL;

		err_set(d->err, -EINVAL, "%s takes no parameters%s%.64s%s", d->schema->name, first != NULL ? ", not '" : "",
			first != NULL ? json_object_iter_key(first) : "", first != NULL ? "'" : "");
		return RPC_ERROR_INVALID_PARAMS;
	}
	if (!json_is_object(params)) {
		err_set(d->err, -EINVAL, "%s: params must be an object, of names and values", d->schema->name);
		return d->schema->decode_error;
	}
	json_object_foreach((json_t *)params, name, value) {
		if (rpc_schema_param(d->schema, name) == NULL) {
			return unknown_param(d, name);
		}
	}
	return 0;
}

int
rpc_decode(const struct rpc_schema *schema, const json_t *params, void *out, struct err *err)
{
	const struct decoder d = {schema, out, err};
	int rc = check_names(&d, params);

	for (size_t i = 0; i < schema->param_count && rc == 0; i++) {
		if (!schema->params[i].neutral) {
			set_default(&schema->params[i], out);
		}
		rc = decode_param(&d, &schema->params[i], params);
	}
	return rc;
}

void
rpc_decode_release(const struct rpc_schema *schema, void *out)
{
	for (size_t i = 0; i < schema->param_count && out != NULL; i++) {
		if (schema->params[i].type == RPC_TYPE_STRINGS) {
			free(((struct rpc_strings *)((uint8_t *)out + schema->params[i].offset))->items);
		}
	}
}
