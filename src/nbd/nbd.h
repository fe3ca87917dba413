/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The NBD server: servers (a listening socket each), exports (a bdev each, under a name), and the kernel's /dev/nbdX. All
 * functions here belong to the app thread; connections are served by the I/O threads given to nbd_init().
 */
#ifndef NBD_NBD_H
#define NBD_NBD_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "event/thread.h"
#include "event/worker.h"
#include "sock/tcp.h"

struct bdev;
struct nbd_server;
struct nbd_export;

#define NBD_NAME_MAX 255
#define NBD_CONNECTIONS_DEFAULT 1024

struct nbd_options {
	struct thread *const *io_threads; /* borrowed for ever */
	unsigned io_thread_count;
	const char *socket_dir;    /* where the socket of a server appears that was given no address */
	const gid_t *socket_group; /* whose members may connect to unix sockets; NULL: only the user berthd runs as */
	struct worker *worker;     /* for what blocks (the kernel's devices) */
	bool keep_disks; /* the kernel's devices outlive this process: the next one takes them over */
};

/* Once. 0 or a negative errno. */
int nbd_init(const struct nbd_options *options, struct err *err);

/* Ends every server, connection and disk: what is in flight is answered; then done(ctx). */
void nbd_end(void (*done)(void *ctx), void *ctx);

/* ---- Servers ---- */

enum nbd_tls {
	NBD_TLS_OFF,
	NBD_TLS_OPTIONAL, /* clients may */
	NBD_TLS_REQUIRED, /* without it they learn nothing, not even which exports there are */
};

struct nbd_server_options {
	const char *name;
	const char *unix_path; /* at most one of these; NULL both: a unix socket of the server's name in the socket folder */
	const char *tcp;       /* "HOST:PORT", see sock/tcp.h */
	enum nbd_tls tls;
	const char *tls_certs; /* see sock/tls.h; NULL: none */
	const char *tls_psk;
	bool tls_verify_peer;
	uint32_t max_connections; /* 0: NBD_CONNECTIONS_DEFAULT; more wait */
};

/* Strings are copied. -EEXIST (name taken), -EINVAL, -EADDRINUSE, ... */
int nbd_server_create(const struct nbd_server_options *options, struct nbd_server **ret, struct err *err);

/* Listens no more, and ends its clients; then done(ctx, 0). -ENODEV; -EBUSY: an export is for this server alone. */
int nbd_server_delete(const char *name, void (*done)(void *ctx, int status), void *ctx, struct err *err);

struct nbd_server *nbd_server_find(const char *name);
struct nbd_server *nbd_server_first(void);
struct nbd_server *nbd_server_next(struct nbd_server *s);

struct nbd_server_info {
	const struct nbd_server_options *options; /* unix_path is filled in; tcp as it was given */
	char address[TCP_ADDRESS_BYTES]; /* where it listens, of a TCP server: with the port it got; "" of a unix one */
	unsigned connections; /* clients, those that have not chosen an export included */
	unsigned handshakes;  /* of these: have not chosen one yet */
	uint64_t accepted;
};
void nbd_server_get_info(const struct nbd_server *s, struct nbd_server_info *ret);

/* ---- Exports ---- */

struct nbd_export_options {
	const char *name;
	const char *bdev_name;   /* name, alias or UUID */
	const char *description; /* NULL: none */
	const char *server;      /* only clients of this one; NULL: of all */
	const char *changed_since; /* a snapshot: what berth:changed compares with; NULL: the parent */
	bool since_lost; /* there is none of that name any more: everything has changed */
	bool readonly;
};

/* Strings are copied. -EEXIST, -ENODEV (no such bdev, no such server), -EINVAL, -EPERM (claimed), -EROFS, ... */
int nbd_export_create(const struct nbd_export_options *options, struct nbd_export **ret, struct err *err);

/* Answers what is in flight, ends its clients, closes the bdev; then done(ctx, 0). -ENODEV. */
int nbd_export_delete(const char *name, void (*done)(void *ctx, int status), void *ctx, struct err *err);

struct nbd_export *nbd_export_find(const char *name);
struct nbd_export *nbd_export_first(void);
struct nbd_export *nbd_export_next(struct nbd_export *e);

/* The one that tells what has changed since a snapshot; NULL: there is none. */
const struct nbd_export *nbd_export_comparing_with(const struct bdev *snapshot);

struct nbd_export_info {
	const struct nbd_export_options *options;
	const char *bdev_name; /* NULL: it was removed */
	uint64_t size_bytes;
	unsigned connections;
	uint64_t accepted; /* so far */
};
void nbd_export_get_info(const struct nbd_export *e, struct nbd_export_info *ret);

struct nbd_client_info {
	uint64_t id;
	const char *peer;   /* an address, or "unix" */
	const char *server; /* NULL: the kernel */
	const char *user;   /* who it is by its certificate or key; NULL: not known */
	bool tls;
	bool structured, extended;
	const char *thread;
	uint64_t reads, writes, others, read_bytes, written_bytes, errors;
};
/* fn for each client of an export. */
void nbd_export_for_each_client(const struct nbd_export *e, void (*fn)(void *ctx, const struct nbd_client_info *info),
				void *ctx);

/* ---- The kernel's devices ---- */

/* How long the kernel keeps I/O waiting while nobody serves the device: a restart or an upgrade takes less. */
#define NBD_DISK_TIMEOUT_S 300

struct nbd_disk_options {
	const char *bdev_name;
	const char *device; /* "/dev/nbd0"; NULL: the kernel chooses */
	uint32_t timeout_s; /* 0: NBD_DISK_TIMEOUT_S */
};

/*
 * Makes bdev appear as the kernel's device, or takes over one that waits for its server. done(ctx, status, device, err) later:
 * 0; -ENODEV (no such bdev or device; the kernel has no nbd), -EBUSY (the device is in use), -EPERM, ...
 */
int nbd_disk_start(const struct nbd_disk_options *options,
		   void (*done)(void *ctx, int status, const char *device, const struct err *err), void *ctx, struct err *err);
/* done(ctx, status): 0. -ENODEV: no disk of that name. */
int nbd_disk_stop(const char *device, void (*done)(void *ctx, int status), void *ctx, struct err *err);

struct nbd_disk_info {
	const char *device;
	const char *bdev_name;
	uint32_t timeout_s;
};
/* The i-th; false past the last. */
bool nbd_disk_get(unsigned i, struct nbd_disk_info *ret);

#endif
