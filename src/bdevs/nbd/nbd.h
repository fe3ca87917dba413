/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * NBD bdevs: anybody's NBD export as a bdev. A server that goes away is connected to again: requests wait meanwhile, and those
 * that it had are sent once more. All functions: app thread.
 */
#ifndef BDEVS_NBD_NBD_H
#define BDEVS_NBD_NBD_H

#include "base/err.h"
#include "bdev/bdev.h"

struct nbd_bdev_options {
	const char *name;
	/* One of the three. */
	const char *uri;    /* nbd://..., nbd+unix://..., nbds://...; it names the export, too */
	const char *socket; /* path of a unix socket */
	const char *host;

	const char *port;   /* of host; NULL: 10809 */
	const char *export; /* NULL: the server's default */
	/* TLS is used, and nothing else accepted, when one of these is given or the URI says so. */
	const char *tls_certificates; /* folder with ca-cert.pem, perhaps client-cert.pem and client-key.pem */
	const char *tls_psk_file;     /* of lines "username:hexadecimal key" */
	const char *tls_username;     /* NULL: this process's */
	unsigned connections; /* at most, the server may allow one only; 0: connections_default */
	unsigned connections_default; /* one for each thread is best; the first is the app thread's */
	unsigned reconnect_s; /* so long requests wait for a server that is gone; then they end with -EIO */
	unsigned connect_ms;  /* longest time for a connection to be made, 0: 5 s */
	bool wait;            /* a server that is not there yet is awaited */
};

/* False: this berthd was built without libnbd; then bdev_nbd_attach() is -EOPNOTSUPP. */
bool bdev_nbd_supported(void);

/*
 * Borrows options. Connects in the background; then done(ctx, bdev, err): bdev is NULL with err->code set when that failed,
 * and NULL with err->code 0 when the server is awaited. 0; -EINVAL (options); -EEXIST; -ENOMEM: done is not called.
 */
int bdev_nbd_attach(const struct nbd_bdev_options *options,
		    void (*done)(void *ctx, struct bdev *bdev, const struct err *err), void *ctx, struct err *err);

/* Also one that still waits. 0: done(ctx, 0) follows; -ENODEV: done is not called. done may be NULL. */
int bdev_nbd_detach(const char *name, void (*done)(void *ctx, int status), void *ctx, struct err *err);

struct nbd_bdev_info {
	struct nbd_bdev_options options;
	bool connected;
	unsigned connections; /* now */
	unsigned connects;    /* so far: how often they were made */
};

/* For the saved configuration and for people. False when bdev is none of ours. Borrowed. */
bool bdev_nbd_info(const struct bdev *bdev, struct nbd_bdev_info *ret_info);

/* Calls fn for each that is no bdev yet because its server is awaited. */
void bdev_nbd_for_each_waiting(void (*fn)(void *ctx, const struct nbd_bdev_options *options), void *ctx);

/* Before the process ends: nothing is awaited any more. */
void bdev_nbd_shutdown(void);

#endif
