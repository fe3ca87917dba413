/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Making connections to an NBD server, with a time limit: the handshake is libnbd's, driven from here.
 * Context: a worker.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "bdevs/nbd/internal.h"

/* ---- One connection ---- */

/* libnbd's last error on this system thread. */
static int
nbd_failure(struct err *err)
{
	int code = nbd_get_errno();
	const char *text = nbd_get_error();

	return err_set(err, code > 0 ? -code : -EIO, "%s", text != NULL ? text : "libnbd says no more");
}

static int
set_up(struct nbd_handle *h, const struct nbd_bdev_options *o)
{
	bool tls = o->tls_certificates != NULL || o->tls_psk_file != NULL;

	if (nbd_set_uri_allow_local_file(h, true) != 0 || nbd_add_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION) != 0 ||
	    (o->export != NULL && nbd_set_export_name(h, o->export) != 0)) {
		return -1;
	}
	if (tls && nbd_set_tls(h, LIBNBD_TLS_REQUIRE) != 0) {
		return -1;
	}
	if ((o->tls_certificates != NULL && nbd_set_tls_certificates(h, o->tls_certificates) != 0) ||
	    (o->tls_psk_file != NULL && nbd_set_tls_psk_file(h, o->tls_psk_file) != 0) ||
	    (o->tls_username != NULL && nbd_set_tls_username(h, o->tls_username) != 0)) {
		return -1;
	}
	return 0;
}

static int
begin(struct nbd_handle *h, const struct nbd_bdev_options *o)
{
	if (o->uri != NULL) {
		return nbd_aio_connect_uri(h, o->uri);
	}
	if (o->socket != NULL) {
		return nbd_aio_connect_unix(h, o->socket);
	}
	return nbd_aio_connect_tcp(h, o->host, o->port != NULL ? o->port : "10809");
}

static bool
under_way(struct nbd_handle *h)
{
	return nbd_aio_is_connecting(h) == 1 || nbd_aio_is_negotiating(h) == 1;
}

/* What libnbd waits for has happened, or the time is up: 0, -ETIMEDOUT, -ECANCELED or -errno. */
static int
step(const struct remote_disk *disk, struct nbd_handle *h, uint64_t deadline_ns)
{
	unsigned direction = nbd_aio_get_direction(h);
	struct pollfd p = {.fd = nbd_aio_get_fd(h)};
	uint64_t now = clock_now_ns();
	int n;

	if ((direction & LIBNBD_AIO_DIRECTION_READ) != 0) {
		p.events |= POLLIN;
	}
	if ((direction & LIBNBD_AIO_DIRECTION_WRITE) != 0) {
		p.events |= POLLOUT;
	}
	if (now >= deadline_ns) {
		return -ETIMEDOUT;
	}
	n = remote_wait(disk, &p, (int)((deadline_ns - now) / NS_PER_MS + 1));
	if (n <= 0) {
		return n == 0 ? -ETIMEDOUT : n == -EINTR ? 0 : n;
	}
	if ((p.revents & ~POLLOUT) != 0 && (direction & LIBNBD_AIO_DIRECTION_READ) != 0) {
		return nbd_aio_notify_read(h) == 0 ? 0 : -EIO;
	}
	return nbd_aio_notify_write(h) == 0 ? 0 : -EIO;
}

static int
connect_one(const struct remote_disk *disk, const struct nbd_bdev_options *o, uint64_t deadline_ns,
	    struct nbd_handle **ret_handle, struct err *err)
{
	struct nbd_handle *h = nbd_create();
	int rc = 0;

	if (h == NULL) {
		return nbd_failure(err);
	}
	if (set_up(h, o) != 0 || begin(h, o) != 0) {
		rc = nbd_failure(err);
	}
	while (rc == 0 && under_way(h)) {
		rc = step(disk, h, deadline_ns);
		if (rc == -ETIMEDOUT || rc == -ECANCELED) {
			err_set(err, rc, rc == -ETIMEDOUT ? "no connection within the time for it" : "nobody waits for it");
		} else if (rc != 0) {
			rc = nbd_failure(err);
		}
	}
	if (rc == 0 && nbd_aio_is_ready(h) != 1) {
		rc = nbd_failure(err);
	}
	if (rc != 0) {
		nbd_close(h);
		return rc;
	}
	*ret_handle = h;
	return 0;
}

/* ---- The export ---- */

/* A power of two that can be a size of blocks, else `otherwise`. */
static uint32_t
block_size_of(int64_t bytes, uint32_t otherwise)
{
	bool good = bytes >= BDEV_BLOCK_SIZE_MIN && bytes <= BDEV_BLOCK_SIZE_MAX && (bytes & (bytes - 1)) == 0;

	return good ? (uint32_t)bytes : otherwise;
}

static int
look(struct nbd_handle *h, struct nbd_export *export, struct err *err)
{
	int64_t bytes = nbd_get_size(h), minimum = nbd_get_block_size(h, LIBNBD_SIZE_MINIMUM),
		maximum = nbd_get_block_size(h, LIBNBD_SIZE_MAXIMUM);

	if (bytes < 0) {
		return nbd_failure(err);
	}
	*export = (struct nbd_export){
		.bytes = (uint64_t)bytes,
		.block_size = block_size_of(minimum, BDEV_BLOCK_SIZE_MIN),
		.max_bytes = maximum > 0 ? (uint64_t)maximum : UINT64_MAX,
		.readonly = nbd_is_read_only(h) == 1,
		.flush = nbd_can_flush(h) == 1,
		.fua = nbd_can_fua(h) == 1,
		.trim = nbd_can_trim(h) == 1,
		.zero = nbd_can_zero(h) == 1,
		.multi_conn = nbd_can_multi_conn(h) == 1,
		.allocation = nbd_can_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION) == 1,
	};
	export->preferred_bytes = block_size_of(nbd_get_block_size(h, LIBNBD_SIZE_PREFERRED), export->block_size);
	if (minimum > (int64_t)export->block_size) {
		return err_set(err, -EINVAL, "the server wants requests of %lld bytes at least", (long long)minimum);
	}
	if (export->bytes < export->block_size) {
		return err_set(err, -EINVAL, "the export has %lld bytes, less than a block", (long long)bytes);
	}
	if (export->max_bytes < export->block_size) {
		return err_set(err, -EINVAL, "the server takes requests of %lld bytes at most", (long long)maximum);
	}
	return 0;
}

/* ---- All of them ---- */

void
nbd_link_free(struct nbd_link *link)
{
	if (link == NULL) {
		return;
	}
	for (unsigned i = 0; i < REMOTE_LANES_MAX; i++) {
		if (link->handles[i] != NULL) {
			/* Polite, if the socket takes it at once. */
			(void)nbd_aio_disconnect(link->handles[i], 0);
			nbd_close(link->handles[i]);
		}
	}
	free(link);
}

static int
connect_more(const struct remote_disk *disk, const struct nbd_bdev_options *o, uint64_t deadline_ns, struct nbd_link *link,
	     struct err *err)
{
	unsigned want = link->export.multi_conn ? disk->options.lanes : 1;
	int rc = 0;

	link->remote.lanes = 1;
	while (rc == 0 && link->remote.lanes < want) {
		struct nbd_handle *h = NULL;

		rc = connect_one(disk, o, deadline_ns, &h, err);
		if (rc == 0) {
			link->handles[link->remote.lanes++] = h;
			if (nbd_get_size(h) != (int64_t)link->export.bytes) {
				rc = err_set(err, -EINVAL, "the export's size changes from one connection to the next");
			}
		}
	}
	return rc;
}

int
nbd_link_make(const struct remote_disk *disk, const struct nbd_bdev_options *o, struct nbd_link **ret_link, struct err *err)
{
	uint64_t deadline_ns = clock_now_ns() + o->connect_ms * NS_PER_MS;
	struct nbd_link *link = calloc(1, sizeof(*link));
	int rc;

	if (link == NULL) {
		return err_set(err, -ENOMEM, "out of memory");
	}
	rc = connect_one(disk, o, deadline_ns, &link->handles[0], err);
	if (rc == 0) {
		rc = look(link->handles[0], &link->export, err);
	}
	if (rc == 0) {
		rc = connect_more(disk, o, deadline_ns, link, err);
	}
	if (rc != 0) {
		err_prefix(err, "%s: ", o->uri != NULL ? o->uri : o->socket != NULL ? o->socket : o->host);
		nbd_link_free(link);
		return rc;
	}
	*ret_link = link;
	return 0;
}
