/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * berth export: bdevs for NBD clients. An address makes a server there, unless there is one; without an address the server is
 * one at a unix socket. The export is for that server alone: nothing comes to a network that nobody sent there.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "app/ctl.h"
#include "base/check.h"
#include "base/path.h"

#define COMMAND "export"

struct request {
	const char *unix_path, *tcp, *name, *description, *since, *certs, *psk;
	bool verify_peer, readonly, list, remove;
	char *path; /* unix_path, from the root */
};

static const char *
text_of(const json_t *object, const char *key)
{
	return json_string_value(json_object_get(object, key));
}

/* ---- URIs ---- */

/* Appends text, with what a URI cannot have in it as %XX. */
static void
put_escaped(FILE *f, const char *text, const char *allowed)
{
	for (; *text != '\0'; text++) {
		unsigned char c = (unsigned char)*text;

		if (isalnum(c) || strchr(allowed, c) != NULL) {
			fputc(c, f);
		} else {
			fprintf(f, "%%%02X", c);
		}
	}
}

/* Where a client finds the export on the server; the caller frees it. */
static char *
make_uri(const json_t *server, const char *export)
{
	const char *tls = text_of(server, "tls"), *path = text_of(server, "path");
	bool secure = tls != NULL && strcmp(tls, "off") != 0;
	char *uri = NULL;
	size_t len;
	FILE *f = open_memstream(&uri, &len);

	if (f == NULL) {
		return NULL;
	}
	if (path != NULL) {
		fprintf(f, "%s+unix:///", secure ? "nbds" : "nbd");
		put_escaped(f, export, "-._~");
		fputs("?socket=", f);
		put_escaped(f, path, "-._~/");
	} else {
		const char *address = text_of(server, "address");

		fprintf(f, "%s://%s/", secure ? "nbds" : "nbd", address != NULL ? address : "?");
		put_escaped(f, export, "-._~");
	}
	fclose(f);
	return uri;
}

static bool
serves(const json_t *server, const json_t *export)
{
	const char *only = text_of(export, "server"), *name = text_of(server, "name");

	return only == NULL || (name != NULL && strcmp(only, name) == 0);
}

/* ---- Options ---- */

static int
take_options(int *argc, char **argv, struct request *r)
{
	const struct {
		const char *option;
		const char **value;
		bool *flag;
	} options[] = {
		{"--unix", &r->unix_path, NULL},     {"--tcp", &r->tcp, NULL},
		{"--name", &r->name, NULL},          {"--description", &r->description, NULL},
		{"--changed-since", &r->since, NULL},
		{"--tls-certs", &r->certs, NULL},    {"--tls-psk", &r->psk, NULL},
		{"--tls-verify-peer", NULL, &r->verify_peer}, {"--read-only", NULL, &r->readonly},
		{"--readonly", NULL, &r->readonly},  {"--list", NULL, &r->list},
		{"--remove", NULL, &r->remove},
	};

	for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
		int rc = ctl_take_option(argc, argv, options[i].option, options[i].value);

		if (rc < 0) {
			return CTL_USAGE;
		}
		if (options[i].flag != NULL) {
			*options[i].flag |= rc == 1;
		}
	}
	if (r->unix_path != NULL && r->tcp != NULL) {
		return ctl_usage(COMMAND, "an export is at --unix or at --tcp; call it twice for both");
	}
	if ((r->certs != NULL || r->psk != NULL || r->verify_peer) && r->unix_path == NULL && r->tcp == NULL) {
		return ctl_usage(COMMAND, "TLS is for an address: --tcp or --unix is missing");
	}
	return CTL_OK;
}

/* ---- Servers ---- */

/* Adds the parameter if there is a value; false when it is no UTF-8. */
static bool
put_text(json_t *params, const char *key, const char *value)
{
	return value == NULL || json_object_set_new(params, key, json_string(value)) == 0;
}

/* The one at the address, borrowed; NULL: there is none. Without an address any at a unix socket will do. */
static json_t *
server_at(const json_t *servers, const struct request *r)
{
	const char *address = r->tcp != NULL ? r->tcp : r->path;
	json_t *s;
	size_t i;

	json_array_foreach(servers, i, s) {
		const char *here = text_of(s, r->tcp != NULL ? "tcp" : "path");

		if (here != NULL && (address == NULL || strcmp(here, address) == 0)) {
			return s;
		}
	}
	return NULL;
}

/* A server's name is a file name: the address without slashes. */
static char *
server_name(const struct request *r)
{
	char *name = strdup(r->tcp != NULL ? r->tcp : r->path + strspn(r->path, "/"));

	for (char *p = name; p != NULL && *p != '\0'; p++) {
		*p = *p == '/' ? '-' : *p;
	}
	return name;
}

static int
create_server(struct ctl *ctl, const struct request *r, json_t **ret)
{
	bool addressed = r->tcp != NULL || r->path != NULL;
	char *name = addressed ? server_name(r) : NULL, *certs = r->certs != NULL ? path_absolute(r->certs) : NULL;
	char *psk = r->psk != NULL ? path_absolute(r->psk) : NULL;
	json_t *params = json_object();
	int rc;

	if (!put_text(params, "name", name) || !put_text(params, "path", r->path) || !put_text(params, "tcp", r->tcp) ||
	    !put_text(params, "tls_certs", certs) || !put_text(params, "tls_psk", psk)) {
		json_decref(params);
		rc = ctl_usage(COMMAND, "the address is no UTF-8");
	} else {
		if (r->verify_peer) {
			json_object_set_new(params, "tls_verify_peer", json_true());
		}
		rc = ctl_call(ctl, COMMAND, "berth_nbd_server_create", params, ret, NULL);
	}
	free(name);
	free(certs);
	free(psk);
	return rc;
}

static void
delete_server(struct ctl *ctl, const char *name)
{
	json_t *result = NULL, *error = NULL;

	(void)ctl_call(ctl, COMMAND, "berth_nbd_server_delete", json_pack("{s:s}", "name", name), &result, &error);
	json_decref(result);
	json_decref(error);
}

/* The server that the export is to be on, new reference; *ret_made: it was not there before. */
static int
find_server(struct ctl *ctl, const struct request *r, json_t **ret, bool *ret_made)
{
	json_t *servers = NULL, *found;
	int rc = ctl_call(ctl, COMMAND, "berth_nbd_get_servers", NULL, &servers, NULL);

	if (rc != CTL_OK) {
		return rc;
	}
	found = server_at(servers, r);
	*ret_made = found == NULL;
	if (found == NULL) {
		rc = create_server(ctl, r, ret);
	} else if (r->certs != NULL || r->psk != NULL || r->verify_peer) {
		fprintf(stderr, "berth export: there is a server at %s already: its TLS stays as it is, so leave it out here\n",
			r->tcp != NULL ? r->tcp : text_of(found, "path"));
		rc = CTL_REFUSED;
	} else {
		*ret = json_incref(found);
	}
	json_decref(servers);
	return rc;
}

/* ---- Adding ---- */

static int
export_params(const struct request *r, const char *bdev, const json_t *server, json_t **ret)
{
	json_t *params = json_pack("{s:b}", "readonly", r->readonly);

	if (!put_text(params, "bdev_name", bdev) || !put_text(params, "name", r->name) ||
	    !put_text(params, "description", r->description) || !put_text(params, "changed_since", r->since) ||
	    !put_text(params, "server", text_of(server, "name"))) {
		json_decref(params);
		return ctl_usage(COMMAND, "a name is no UTF-8");
	}
	*ret = params;
	return CTL_OK;
}

static void
print_added(struct ctl *ctl, json_t *export, const json_t *server)
{
	const char *name = text_of(export, "name");
	char *uri = make_uri(server, name != NULL ? name : "");

	if (ctl->json) {
		json_object_set_new(export, "uri", json_string(uri != NULL ? uri : ""));
		ctl_print_json(export);
	} else {
		printf("%s\n", uri != NULL ? uri : "");
	}
	free(uri);
}

static int
add(struct ctl *ctl, const struct request *r, const char *bdev)
{
	json_t *server = NULL, *params = NULL, *export = NULL;
	bool made = false;
	int rc = find_server(ctl, r, &server, &made);

	if (rc == CTL_OK) {
		rc = export_params(r, bdev, server, &params);
		if (rc == CTL_OK) {
			rc = ctl_call(ctl, COMMAND, "berth_nbd_export_create", params, &export, NULL);
		}
		if (rc == CTL_OK) {
			print_added(ctl, export, server);
		} else if (made && text_of(server, "name") != NULL) {
			delete_server(ctl, text_of(server, "name"));
		}
	}
	json_decref(server);
	json_decref(export);
	return rc;
}

/* ---- Listing ---- */

static void
list_row(struct ctl_table *table, const json_t *export, const char *uri)
{
	char size[32], clients[24];
	const char *name = text_of(export, "name"), *bdev = text_of(export, "bdev_name");
	json_int_t bytes = json_integer_value(json_object_get(export, "size"));

	snprintf(clients, sizeof(clients), "%" JSON_INTEGER_FORMAT, json_integer_value(json_object_get(export, "connections")));
	ctl_table_row(table, name != NULL ? name : "?", bdev != NULL ? bdev : "(removed)",
		      ctl_bytes(bytes > 0 ? (uint64_t)bytes : 0, size),
		      json_is_true(json_object_get(export, "readonly")) ? "read-only" : "read-write", clients, uri);
}

static void
print_list(const json_t *servers, const json_t *exports)
{
	struct ctl_table table = {.columns = 6, .right = 1 << 2 | 1 << 4};
	const json_t *export, *server;
	size_t i, j;

	ctl_table_row(&table, "EXPORT", "BDEV", "SIZE", "ACCESS", "CLIENTS", "URI");
	json_array_foreach(exports, i, export) {
		const char *name = text_of(export, "name");
		bool shown = false;

		json_array_foreach(servers, j, server) {
			char *uri = serves(server, export) ? make_uri(server, name != NULL ? name : "") : NULL;

			if (uri != NULL) {
				list_row(&table, export, uri);
				shown = true;
			}
			free(uri);
		}
		if (!shown) {
			list_row(&table, export, "(no server)");
		}
	}
	ctl_table_print(&table);
	json_array_foreach(exports, i, export) {
		if (json_is_true(json_object_get(export, "since_lost"))) {
			printf("%s: snapshot %s is no more: all of it counts as changed\n", text_of(export, "name"),
			       text_of(export, "changed_since"));
		}
	}
}

static int
list(struct ctl *ctl)
{
	json_t *servers = NULL, *exports = NULL;
	int rc = ctl_call(ctl, COMMAND, "berth_nbd_get_servers", NULL, &servers, NULL);

	if (rc == CTL_OK) {
		rc = ctl_call(ctl, COMMAND, "berth_nbd_get_exports", NULL, &exports, NULL);
	}
	if (rc == CTL_OK && ctl->json) {
		json_t *both = json_pack("{s:O, s:O}", "servers", servers, "exports", exports);

		ctl_print_json(both);
		json_decref(both);
	} else if (rc == CTL_OK) {
		print_list(servers, exports);
	}
	json_decref(servers);
	json_decref(exports);
	return rc;
}

/* ---- Removing ---- */

/* The server that was for this export alone, the caller frees it; NULL: there is none. Exports that are on all servers do not
 * count: they did not ask for this one. */
static char *
server_left_alone(struct ctl *ctl, const char *name)
{
	json_t *exports = NULL, *error = NULL, *e;
	const char *server = NULL;
	bool shared = false;
	char *left = NULL;
	size_t i;

	if (ctl_call(ctl, COMMAND, "berth_nbd_get_exports", NULL, &exports, &error) == CTL_OK) {
		json_array_foreach(exports, i, e) {
			const char *this = text_of(e, "name");

			server = this != NULL && strcmp(this, name) == 0 ? text_of(e, "server") : server;
		}
		json_array_foreach(exports, i, e) {
			const char *this = text_of(e, "name"), *only = text_of(e, "server");

			shared |= this != NULL && strcmp(this, name) != 0 && only != NULL && server != NULL &&
				  strcmp(only, server) == 0;
		}
		left = server != NULL && !shared ? strdup(server) : NULL;
	}
	json_decref(exports);
	json_decref(error);
	return left;
}

static int
remove_export(struct ctl *ctl, const char *name)
{
	char *server = server_left_alone(ctl, name);
	json_t *params = json_pack("{s:s}", "name", name), *result = NULL;
	int rc = params != NULL ? ctl_call(ctl, COMMAND, "berth_nbd_export_delete", params, &result, NULL)
				: ctl_usage(COMMAND, "the name is no UTF-8");

	if (rc == CTL_OK && server != NULL) {
		delete_server(ctl, server);
	}
	json_decref(result);
	free(server);
	return rc;
}

int
ctl_export(struct ctl *ctl, int argc, char **argv)
{
	struct request r = {.list = false};
	int rc = take_options(&argc, argv, &r);

	if (rc != CTL_OK) {
		return rc;
	}
	rc = ctl_check_arguments(COMMAND, argc, argv, r.list ? 0 : 1, r.list ? 0 : 1);
	if (rc != CTL_OK) {
		return rc;
	}
	if (r.list) {
		return list(ctl);
	}
	if (r.remove) {
		return remove_export(ctl, argv[1]);
	}
	if (r.unix_path != NULL) {
		r.path = path_absolute(r.unix_path);
	}
	rc = add(ctl, &r, argv[1]);
	free(r.path);
	return rc;
}
