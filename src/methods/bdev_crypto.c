/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Methods on keys and crypto bdevs. What a call gives of a key goes to the store and nowhere else: it is recorded where a key
 * comes from, and nothing of one that came with the call.
 */
#include "bdevs/crypto/crypto.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/check.h"
#include "bdevs/crypto/key.h"
#include "methods/internal.h"
#include "rpc/schema_gen.h"

/* ---- Keys ---- */

static const char *const sources[] = {
	[CRYPTO_KEY_GIVEN] = "given",
	[CRYPTO_KEY_FILE] = "file",
	[CRYPTO_KEY_CREDENTIAL] = "credential",
	[CRYPTO_KEY_KEYRING] = "keyring",
};

/* The parameter that names where a key comes from. */
static const char *const source_params[] = {
	[CRYPTO_KEY_FILE] = "key_file",
	[CRYPTO_KEY_CREDENTIAL] = "key_credential",
	[CRYPTO_KEY_KEYRING] = "key_keyring",
};

/* The call that makes a key again; NULL: nothing does. */
static json_t *
key_params(const struct crypto_key_info *info)
{
	json_t *params;

	if (info->source == CRYPTO_KEY_GIVEN) {
		return NULL;
	}
	params = json_pack("{s:o, s:s, s:s}", "name", text_json(info->name), "cipher", info->cipher, "tweak_mode",
			   info->tweak_mode);
	if (info->source == CRYPTO_KEY_FILE) {
		/* The daemon that reads this may run in another folder. */
		set_path(params, source_params[info->source], info->from);
	} else {
		json_object_set_new(params, source_params[info->source], text_json(info->from));
	}
	return params;
}

static void
key_create(struct rpc_request *req, const void *params)
{
	const struct accel_crypto_key_create_params *p = params;
	struct crypto_key_options o = {
		.name = p->name, .cipher = p->cipher, .tweak_mode = p->tweak_mode, .key = p->key, .key2 = p->key2};
	const char *from[] = {[CRYPTO_KEY_FILE] = p->key_file, [CRYPTO_KEY_CREDENTIAL] = p->key_credential,
			      [CRYPTO_KEY_KEYRING] = p->key_keyring};
	unsigned given = p->key != NULL || p->key2 != NULL;
	struct crypto_key_info info;
	struct err err = ERR_NONE;
	json_t *recorded;
	int rc;

	for (unsigned i = CRYPTO_KEY_FILE; i < ARRAY_SIZE(from); i++) {
		if (from[i] != NULL) {
			o.source = (enum crypto_key_source)i;
			o.from = from[i];
			given++;
		}
	}
	if (given > 1) {
		rpc_error(req, -EINVAL, "key '%s' is given in two ways: key and key2, key_file, key_credential, key_keyring",
			  p->name);
		return;
	}
	rc = crypto_key_create(&o, &err);
	if (rc != 0) {
		rpc_error_from(req, rc, &err);
		return;
	}
	crypto_key_info(crypto_key_find(p->name), &info);
	recorded = key_params(&info);
	rpc_set_recorded_call(req, recorded != NULL ? "accel_crypto_key_create" : NULL, recorded);
	rpc_true(req);
}

static void
key_destroy(struct rpc_request *req, const void *params)
{
	const char *name = ((const struct accel_crypto_key_destroy_params *)params)->key_name;
	struct err err = ERR_NONE;
	int rc = crypto_key_destroy(name, &err);

	if (rc == -ENOENT && methods->forget != NULL && methods->forget(methods->ctx, "accel_crypto_key_", name)) {
		rc = 0;
	}
	if (rc != 0) {
		rpc_error_from(req, rc, &err);
	} else {
		rpc_true(req);
	}
}

static json_t *
key_json(const struct crypto_key *key)
{
	struct crypto_key_info info;
	json_t *object;

	crypto_key_info(key, &info);
	object = json_pack("{s:o, s:s, s:s, s:i, s:s, s:i}", "name", text_json(info.name), "cipher", info.cipher,
			   "tweak_mode", info.tweak_mode, "key_bits", (int)info.bits, "source", sources[info.source],
			   "users", (int)info.users);
	if (info.from != NULL) {
		json_object_set_new(object, "from", text_json(info.from));
	}
	return object;
}

/* Adds a bdev to those that wait for its key. */
static void
add_missing(void *ctx, const struct crypto_bdev_options *o, bool for_key)
{
	json_t *keys = ctx, *key = NULL, *k;
	size_t i;

	if (!for_key) {
		return;
	}
	json_array_foreach (keys, i, k) {
		const char *name = json_string_value(json_object_get(k, "name"));

		key = name != NULL && strcmp(name, o->key_name) == 0 ? k : key;
	}
	if (key == NULL) {
		key = json_pack("{s:o, s:b, s:[]}", "name", text_json(o->key_name), "missing", 1, "bdevs");
		json_array_append_new(keys, key);
	}
	json_array_append_new(json_object_get(key, "bdevs"), text_json(o->name));
}

static void
keys_get(struct rpc_request *req, const void *params)
{
	const char *name = ((const struct accel_crypto_keys_get_params *)params)->key_name;
	struct crypto_key *key = name != NULL ? crypto_key_find(name) : NULL;
	json_t *keys;

	if (name != NULL && key == NULL) {
		rpc_error(req, -ENOENT, "there is no key '%.255s'", name);
		return;
	}
	keys = json_array();
	if (name != NULL) {
		json_array_append_new(keys, key_json(key));
	} else {
		while ((key = crypto_key_next(key)) != NULL) {
			json_array_append_new(keys, key_json(key));
		}
		bdev_crypto_for_each_waiting(add_missing, keys);
	}
	rpc_result(req, keys);
}

void
accel_config(json_t *calls, bool for_state)
{
	for (struct crypto_key *key = NULL; (key = crypto_key_next(key)) != NULL;) {
		struct crypto_key_info info;
		json_t *params;

		crypto_key_info(key, &info);
		params = key_params(&info);
		if (params != NULL) {
			json_array_append_new(calls, call_json("accel_crypto_key_create", params));
		}
	}
}

/* ---- Bdevs ---- */

static bool
is(const struct bdev *bdev)
{
	struct crypto_bdev_options o;

	return bdev_crypto_get_options(bdev, &o);
}

static json_t *
options_json(const struct crypto_bdev_options *o)
{
	return json_pack("{s:o, s:o, s:o, s:b}", "base_bdev_name", text_json(o->base_name), "name", text_json(o->name),
			 "key_name", text_json(o->key_name), "wait", 1);
}

static json_t *
params_json(const struct bdev *bdev)
{
	struct crypto_bdev_options o;

	CHECK(bdev_crypto_get_options(bdev, &o));
	return options_json(&o);
}

static void
driver_specific(const struct bdev *bdev, json_t *object)
{
	struct crypto_bdev_options o;

	CHECK(bdev_crypto_get_options(bdev, &o));
	json_object_set_new(object, "crypto",
			    json_pack("{s:o, s:o, s:o}", "base_bdev_name", text_json(o.base_name), "name",
				      text_json(o.name), "key_name", text_json(o.key_name)));
}

static void
add_waiting(void *ctx, const struct crypto_bdev_options *o, bool for_key)
{
	json_array_append_new(ctx, call_json("bdev_crypto_create", options_json(o)));
}

static void
waiting(json_t *calls)
{
	bdev_crypto_for_each_waiting(add_waiting, calls);
}

const struct bdev_kind bdev_crypto_kind = {
	.create_method = "bdev_crypto_create",
	.is = is,
	.params = params_json,
	.driver_specific = driver_specific,
	.waiting = waiting,
};

/* Makes the key of a call with the older parameters; its name in name. */
static int
make_key(const struct bdev_crypto_create_params *p, char name[static CRYPTO_KEY_NAME_MAX + 1], struct err *err)
{
	struct crypto_key_options o = {
		.name = name,
		/* What SPDK takes when none is named has no second half. */
		.cipher = p->cipher != NULL ? p->cipher : p->key2 != NULL ? "AES_XTS" : "AES_CBC",
		.key = p->key,
		.key2 = p->key2,
		.temporary = true,
	};

	if (snprintf(name, CRYPTO_KEY_NAME_MAX + 1, "%s_%s", p->name, o.cipher) > CRYPTO_KEY_NAME_MAX) {
		return err_set(err, -EINVAL, "the name is too long");
	}
	return crypto_key_create(&o, err);
}

static void
create(struct rpc_request *req, const void *params)
{
	const struct bdev_crypto_create_params *p = params;
	struct crypto_bdev_options o = {
		.name = p->name, .base_name = p->base_bdev_name, .key_name = p->key_name, .wait_for_key = p->wait};
	bool own_key = p->key_name == NULL;
	char key_name[CRYPTO_KEY_NAME_MAX + 1];
	struct err err = ERR_NONE;
	int rc = 0;

	if (!own_key && (p->key != NULL || p->key2 != NULL)) {
		rpc_error(req, -EINVAL, "bdev '%.128s': key_name names its key: key and key2 are given besides", p->name);
		return;
	}
	if (own_key) {
		rc = make_key(p, key_name, &err);
		o.key_name = key_name;
	}
	if (rc == 0) {
		rc = bdev_crypto_create(&o, NULL, &err);
		if (rc != 0 && own_key) {
			/* Gone already if the bdev had begun to use it. */
			(void)crypto_key_destroy(key_name, NULL);
		}
	}
	if (rc != 0) {
		rpc_error_from(req, rc, &err);
		return;
	}
	rpc_set_recorded_params(req, options_json(&o));
	rpc_result(req, text_json(p->name));
}

static void delete (struct rpc_request *req, const void *params)
{
	const struct bdev_crypto_delete_params *p = params;

	delete_by_name(req, p->name, "bdev_crypto_", bdev_crypto_delete);
}

const struct rpc_method bdev_crypto_methods[] = {
	{"accel_crypto_key_create", key_create},
	{"accel_crypto_key_destroy", key_destroy},
	{"accel_crypto_keys_get", keys_get},
	{"bdev_crypto_create", create},
	{"bdev_crypto_delete", delete},
	{NULL, NULL},
};
