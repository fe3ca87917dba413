/* SPDX-License-Identifier: BSD-3-Clause */
/* Shared by the files of src/nbd that run on the app thread; never leaves this folder. */
#ifndef NBD_CONTROL_H
#define NBD_CONTROL_H

#include "base/list.h"
#include "base/names.h"
#include "nbd/nbd.h"
#include "nbd/negotiate.h"
#include "nbd/session.h"

/* ---- Connections (conn.c) ---- */

struct nbd_conn {
	struct list link;        /* of the server's; the kernel's has none */
	struct list export_link; /* of the export's, once it has chosen */
	struct nbd_server *server; /* NULL: the kernel */
	struct nbd_export *export; /* NULL: has not chosen yet */
	uint64_t id;
	char peer[TCP_ADDRESS_BYTES];
	char *user;
	bool tls, structured, extended;

	/* The handshake. */
	struct stream stream;
	struct watch watch;
	uint32_t events;
	struct timer timeout;
	struct nbd_negotiation negotiation;
	enum nbd_next next; /* when all is sent */
	bool shaking;       /* TLS's own handshake */
	uint8_t *in;
	size_t in_len;
	size_t out_sent;
	struct msg later;
	bool kicked;
	bool over;

	/* Transmission. */
	unsigned place;
	struct nbd_session session;
	void (*ended)(struct nbd_conn *c); /* of the kernel's: before it is freed; NULL: nobody asks */
};

/* Takes fd, also when it fails (-ENOMEM, ...). */
int nbd_conn_accept(struct nbd_server *server, int fd);
/* Serves the export to the other end of a socket, without a handshake. Takes fd, also when it fails. */
int nbd_conn_attach(struct nbd_export *e, int fd, uint16_t flags, void (*ended)(struct nbd_conn *c), struct nbd_conn **ret);
/* In a handshake: ends at once. In transmission: answers what is under way first. */
void nbd_conn_end(struct nbd_conn *c);

int nbd_placement_init(struct thread *const *threads, unsigned count);
void nbd_placement_release(void);

/* ---- Servers (server.c) ---- */

struct nbd_server {
	struct list link;
	struct nbd_server_options options; /* strings are its own */
	struct tls_credentials *credentials;
	int fd;
	struct watch watch;
	bool watching;
	bool complained;
	struct timer retry;
	struct list fresh; /* clients in a handshake, oldest first */
	struct list conns; /* the others */
	unsigned connections;
	unsigned handshakes;
	uint64_t accepted;
	bool deleting;
	void (*done)(void *ctx, int status);
	void *ctx;
};

extern const struct nbd_options *nbd_opts;

/* One of its clients is gone, or has chosen. */
void nbd_server_chosen(struct nbd_server *s);
void nbd_server_left(struct nbd_server *s, bool chosen);

/* ---- Exports (export.c) ---- */

struct nbd_export {
	struct list link; /* the kernel's are on no list */
	struct names_node node;
	struct nbd_export_options options; /* strings are its own */
	struct bdev_desc *desc; /* NULL: the bdev was removed */
	struct bdev_desc *since; /* of options.changed_since; NULL: there is none, or it is lost */
	bool since_going;       /* it is being removed: nobody may come until it is closed */
	bool gone;              /* the bdev is being removed */
	struct list conns;
	unsigned connections;
	uint64_t accepted;
	bool deleting;
	void (*done)(void *ctx, int status);
	void *ctx;
	/* Of the kernel's. */
	void (*on_gone)(struct nbd_export *e);
	void (*on_resize)(struct nbd_export *e);
};

/* Opens the bdev; not in the registry. NULL with err. */
struct nbd_export *nbd_export_make(const struct nbd_export_options *options, struct err *err);
/* Ends its clients, closes the bdev, frees it; then done(ctx, 0). */
void nbd_export_end(struct nbd_export *e, void (*done)(void *ctx, int status), void *ctx);
uint16_t nbd_export_flags(const struct nbd_export *e);
uint64_t nbd_export_bytes(const struct nbd_export *e);
void nbd_export_offer(const struct nbd_export *e, struct nbd_offer *ret);
/* What clients of the server see: by name, no name being the only one; by number. NULL: there is none. */
struct nbd_export *nbd_export_for(const struct nbd_server *s, const struct nbd_string *name);
struct nbd_export *nbd_export_nth(const struct nbd_server *s, unsigned i);
bool nbd_export_uses(const char *server);
/* One of its clients is gone. */
void nbd_export_left(struct nbd_export *e);
void nbd_exports_end(void (*done)(void));

/* ---- The kernel's devices (disk.c) ---- */

void nbd_disks_end(void (*done)(void));

#endif
