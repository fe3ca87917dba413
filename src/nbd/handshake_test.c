/* SPDX-License-Identifier: BSD-3-Clause */
/* Handshakes, well done and otherwise, with and without TLS. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/check.h"
#include "base/path.h"
#include "nbd/negotiate.h"
#include "testkit/certs.h"
#include "testkit/hand.h"
#include "testkit/nbd_stage.h"

#define FIXED NBD_FLAG_C_FIXED_NEWSTYLE
#define BOTH (NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES)

static struct nbd_stage st;
static char *certs, *keys;

static int
setup(void **state)
{
	nbd_stage_start(&st, REACTOR_ADAPTIVE, false);
	return 0;
}

static int
teardown(void **state)
{
	nbd_stage_stop(&st);
	return 0;
}

static void
greeted(struct nbd_client *c)
{
	nbd_client_connect(c, &st);
	nbd_client_greet(c, BOTH);
}

static void
test_export_name(void **state)
{
	for (unsigned zeroes = 0; zeroes < 2; zeroes++) {
		uint8_t answer[10 + 124];
		struct nbd_client c;
		char copy[512];

		nbd_client_connect(&c, &st);
		nbd_client_greet(&c, zeroes ? FIXED : BOTH);
		nbd_client_option(&c, NBD_OPT_EXPORT_NAME, "disk", 4);
		assert_true(nbd_client_recv(&c, answer, zeroes ? 134 : 10));
		assert_int_equal(nbd_get64(answer), NBD_STAGE_BYTES);
		assert_true((nbd_get16(answer + 8) & NBD_FLAG_HAS_FLAGS) != 0);
		assert_int_equal(nbd_client_read(&c, 0, copy, sizeof(copy)), 0);
		nbd_client_close(&c);
	}
}

/* A client that does not wait for answers. */
static void
test_in_one_go(void **state)
{
	uint8_t out[256], *p = nbd_put32(out, BOTH), greeting[NBD_GREETING_BYTES], answer[10];
	struct nbd_client_reply r;
	struct nbd_client c;
	uint8_t data[512];

	p = nbd_put64(p, NBD_OPTION_MAGIC);
	p = nbd_put32(nbd_put32(p, NBD_OPT_EXPORT_NAME), 4);
	memcpy(p, "disk", 4);
	p = nbd_put32(p + 4, NBD_REQUEST_MAGIC);
	p = nbd_put32(p, NBD_CMD_READ);
	memset(p, 1, 8);
	p = nbd_put32(nbd_put64(p + 8, 1024), 512);
	st.disk.data[1024] = 0x5a;
	nbd_client_connect(&c, &st);
	nbd_client_send(&c, out, (size_t)(p - out));
	assert_true(nbd_client_recv(&c, greeting, sizeof(greeting)) && nbd_client_recv(&c, answer, sizeof(answer)));
	assert_true(nbd_client_reply(&c, &r, data, 1024, 512));
	assert_int_equal(r.error, 0);
	assert_int_equal(data[0], 0x5a);
	nbd_client_close(&c);
}

static void
test_list(void **state)
{
	struct nbd_export_options second = {.name = "second", .bdev_name = "disk", .readonly = true};
	uint8_t data[64];
	struct nbd_client c;
	size_t len;

	assert_int_equal(nbd_stage_export(&st, &second), 0);
	assert_int_equal(nbd_stage_export(&st, &second), -EEXIST);
	greeted(&c);
	nbd_client_option(&c, NBD_OPT_LIST, NULL, 0);
	assert_int_equal(nbd_client_option_reply(&c, NBD_OPT_LIST, data, sizeof(data), &len), NBD_REP_SERVER);
	assert_int_equal(nbd_get32(data), 4);
	assert_int_equal(len, 4 + 4 + strlen("a disk of a test"));
	assert_memory_equal(data + 4, "diska disk of a test", 20);
	assert_int_equal(nbd_client_option_reply(&c, NBD_OPT_LIST, data, sizeof(data), &len), NBD_REP_SERVER);
	assert_memory_equal(data + 4, "second", 6);
	assert_int_equal(nbd_client_option_reply(&c, NBD_OPT_LIST, data, sizeof(data), &len), NBD_REP_ACK);
	/* Of two none is the default. */
	assert_int_equal(nbd_client_choose(&c, NBD_OPT_INFO, ""), NBD_REP_ERR_UNKNOWN);
	assert_int_equal(nbd_client_choose(&c, NBD_OPT_INFO, "second"), NBD_REP_ACK);
	assert_true((c.flags & NBD_FLAG_READ_ONLY) != 0);
	assert_int_equal(nbd_stage_export_delete(&st, "second"), 0);
	assert_int_equal(nbd_client_choose(&c, NBD_OPT_GO, ""), NBD_REP_ACK);
	nbd_client_close(&c);
}

static void
test_information(void **state)
{
	uint8_t data[64], *p = nbd_put32(data, 4), answer[64];
	unsigned seen = 0;
	struct nbd_client c;
	uint32_t type;
	size_t len;

	memcpy(p, "disk", 4);
	p = nbd_put16(p + 4, 3);
	p = nbd_put16(nbd_put16(nbd_put16(p, NBD_INFO_NAME), NBD_INFO_DESCRIPTION), NBD_INFO_BLOCK_SIZE);
	greeted(&c);
	nbd_client_option(&c, NBD_OPT_INFO, data, (size_t)(p - data));
	while ((type = nbd_client_option_reply(&c, NBD_OPT_INFO, answer, sizeof(answer), &len)) == NBD_REP_INFO) {
		seen |= 1u << nbd_get16(answer);
		if (nbd_get16(answer) == NBD_INFO_BLOCK_SIZE) {
			assert_int_equal(nbd_get32(answer + 2), 512);
			assert_int_equal(nbd_get32(answer + 6), 4096);
			assert_int_equal(nbd_get32(answer + 10), 32 << 20);
		} else if (nbd_get16(answer) == NBD_INFO_DESCRIPTION) {
			assert_int_equal(len, 2 + strlen("a disk of a test"));
		}
	}
	assert_int_equal(type, NBD_REP_ACK);
	assert_int_equal(seen, 0xf);
	nbd_client_close(&c);
}

static void
test_contexts(void **state)
{
	static const uint8_t list_all[] = {0, 0, 0, 4, 'd', 'i', 's', 'k', 0, 0, 0, 0};
	char list_ours[] = "\0\0\0\4disk\0\0\0\1\0\0\0\6berth:";
	uint8_t answer[64];
	struct nbd_client c;
	size_t len;

	greeted(&c);
	assert_int_equal(nbd_client_set_allocation(&c, "disk"), NBD_REP_ERR_INVALID);
	assert_int_equal(nbd_client_ask(&c, NBD_OPT_STRUCTURED_REPLY), NBD_REP_ACK);
	assert_int_equal(nbd_client_set_allocation(&c, "nothing"), NBD_REP_ERR_UNKNOWN);
	nbd_client_option(&c, NBD_OPT_LIST_META_CONTEXT, list_all, sizeof(list_all));
	assert_int_equal(nbd_client_option_reply(&c, NBD_OPT_LIST_META_CONTEXT, answer, sizeof(answer), &len),
			 NBD_REP_META_CONTEXT);
	assert_int_equal(len, 4 + strlen("base:allocation"));
	assert_int_equal(nbd_client_option_reply(&c, NBD_OPT_LIST_META_CONTEXT, answer, sizeof(answer), &len),
			 NBD_REP_META_CONTEXT);
	assert_int_equal(len, 4 + strlen("berth:changed"));
	assert_memory_equal(answer + 4, "berth:changed", len - 4);
	assert_int_equal(nbd_client_option_reply(&c, NBD_OPT_LIST_META_CONTEXT, NULL, 0, NULL), NBD_REP_ACK);
	/* By its namespace; in another one there is none. */
	nbd_client_option(&c, NBD_OPT_LIST_META_CONTEXT, list_ours, sizeof(list_ours) - 1);
	assert_int_equal(nbd_client_option_reply(&c, NBD_OPT_LIST_META_CONTEXT, answer, sizeof(answer), &len),
			 NBD_REP_META_CONTEXT);
	assert_int_equal(len, 4 + strlen("berth:changed"));
	assert_int_equal(nbd_client_option_reply(&c, NBD_OPT_LIST_META_CONTEXT, NULL, 0, NULL), NBD_REP_ACK);
	list_ours[16] = 'B';
	nbd_client_option(&c, NBD_OPT_LIST_META_CONTEXT, list_ours, sizeof(list_ours) - 1);
	assert_int_equal(nbd_client_option_reply(&c, NBD_OPT_LIST_META_CONTEXT, NULL, 0, NULL), NBD_REP_ACK);
	/* Set for nothing in the end: block status is refused. */
	assert_int_equal(nbd_client_set_allocation(&c, "disk"), NBD_REP_ACK);
	nbd_client_option(&c, NBD_OPT_SET_META_CONTEXT, list_all, sizeof(list_all));
	assert_int_equal(nbd_client_option_reply(&c, NBD_OPT_SET_META_CONTEXT, NULL, 0, NULL), NBD_REP_ACK);
	assert_int_equal(nbd_client_choose(&c, NBD_OPT_GO, "disk"), NBD_REP_ACK);
	c.style = NBD_STRUCTURED;
	assert_int_equal(nbd_client_command(&c, NBD_CMD_BLOCK_STATUS, 0, 0, 512), NBD_EINVAL);
	nbd_client_close(&c);
}

/* What the bdev does not tell is not offered, nor taken when a client asks for it by name. */
static void
test_contexts_of_others(void **state)
{
	static const uint8_t list_all[] = {0, 0, 0, 4, 'd', 'i', 's', 'k', 0, 0, 0, 0};
	uint8_t answer[64];
	struct nbd_client c;
	size_t len;

	st.disk.bdev.tells_changes = false;
	greeted(&c);
	assert_int_equal(nbd_client_ask(&c, NBD_OPT_STRUCTURED_REPLY), NBD_REP_ACK);
	nbd_client_option(&c, NBD_OPT_LIST_META_CONTEXT, list_all, sizeof(list_all));
	assert_int_equal(nbd_client_option_reply(&c, NBD_OPT_LIST_META_CONTEXT, answer, sizeof(answer), &len),
			 NBD_REP_META_CONTEXT);
	assert_int_equal(len, 4 + strlen("base:allocation"));
	assert_int_equal(nbd_client_option_reply(&c, NBD_OPT_LIST_META_CONTEXT, NULL, 0, NULL), NBD_REP_ACK);
	assert_int_equal(nbd_client_set_contexts(&c, "disk", "berth:changed", NULL), NBD_REP_ACK);
	assert_int_equal(nbd_client_choose(&c, NBD_OPT_GO, "disk"), NBD_REP_ACK);
	c.style = NBD_STRUCTURED;
	assert_int_equal(nbd_client_command(&c, NBD_CMD_BLOCK_STATUS, 0, 0, 512), NBD_EINVAL);
	nbd_client_close(&c);
}

static void
test_extended_headers(void **state)
{
	struct nbd_client c;

	greeted(&c);
	assert_int_equal(nbd_client_ask(&c, NBD_OPT_STRUCTURED_REPLY), NBD_REP_ACK);
	assert_int_equal(nbd_client_ask(&c, NBD_OPT_EXTENDED_HEADERS), NBD_REP_ACK);
	assert_int_equal(nbd_client_ask(&c, NBD_OPT_STRUCTURED_REPLY), NBD_REP_ERR_EXT_HEADER_REQD);
	nbd_client_option(&c, NBD_OPT_EXPORT_NAME, "disk", 4);
	nbd_client_expect_end(&c);
	nbd_client_close(&c);
}

static void
test_refusals(void **state)
{
	static uint8_t zeroes[NBD_OPTION_DATA_MAX + 1];
	struct nbd_client c;

	greeted(&c);
	assert_int_equal(nbd_client_ask(&c, 99), NBD_REP_ERR_UNSUP);
	assert_int_equal(nbd_client_ask(&c, NBD_OPT_STARTTLS), NBD_REP_ERR_POLICY);
	assert_int_equal(nbd_client_ask(&c, NBD_OPT_GO), NBD_REP_ERR_INVALID);
	assert_int_equal(nbd_client_choose(&c, NBD_OPT_GO, "no such export"), NBD_REP_ERR_UNKNOWN);
	nbd_client_option(&c, NBD_OPT_LIST, "x", 1);
	assert_int_equal(nbd_client_option_reply(&c, NBD_OPT_LIST, NULL, 0, NULL), NBD_REP_ERR_INVALID);
	nbd_client_option(&c, NBD_OPT_INFO, zeroes, sizeof(zeroes));
	assert_int_equal(nbd_client_option_reply(&c, NBD_OPT_INFO, NULL, 0, NULL), NBD_REP_ERR_TOO_BIG);
	assert_int_equal(nbd_client_ask(&c, NBD_OPT_ABORT), NBD_REP_ACK);
	nbd_client_expect_end(&c);
	nbd_client_close(&c);
}

static void
expect_hang_up(uint32_t flags, const void *data, size_t len)
{
	struct nbd_client c;

	nbd_client_connect(&c, &st);
	nbd_client_greet(&c, flags);
	nbd_client_send(&c, data, len);
	nbd_client_expect_end(&c);
	nbd_client_close(&c);
}

static void
test_hostile_handshakes(void **state)
{
	uint8_t out[NBD_OPTION_BYTES + 8], *p;

	expect_hang_up(0, NULL, 0);
	expect_hang_up(0xffffffff, NULL, 0);
	memset(out, 'A', sizeof(out));
	expect_hang_up(BOTH, out, sizeof(out));
	/* Data without an end; an export that does not exist. */
	p = nbd_put32(nbd_put32(nbd_put64(out, NBD_OPTION_MAGIC), NBD_OPT_INFO), UINT32_MAX);
	expect_hang_up(BOTH, out, (size_t)(p - out));
	p = nbd_put32(nbd_put32(nbd_put64(out, NBD_OPTION_MAGIC), NBD_OPT_EXPORT_NAME), 8);
	memcpy(p, "nonesuch", 8);
	expect_hang_up(BOTH, out, sizeof(out));
}

/* Options without an end. */
static void
test_too_many_options(void **state)
{
	struct nbd_client c;
	unsigned i;

	greeted(&c);
	for (i = 0; i <= NBD_OPTIONS_MAX; i++) {
		nbd_client_option(&c, NBD_OPT_LIST_META_CONTEXT, NULL, 0);
		if (nbd_client_option_reply(&c, NBD_OPT_LIST_META_CONTEXT, NULL, 0, NULL) == 0) {
			break;
		}
	}
	assert_int_equal(i, NBD_OPTIONS_MAX);
	nbd_client_close(&c);
}

/* Those who connect and say nothing make room for those who come. */
static void
test_crowd(void **state)
{
	enum { CROWD = 70 };
	struct nbd_client crowd[CROWD], c;
	uint8_t byte;
	unsigned alive = 0;

	for (unsigned i = 0; i < CROWD; i++) {
		nbd_client_connect(&crowd[i], &st);
		nbd_client_greet(&crowd[i], BOTH);
	}
	nbd_client_open(&c, &st, "disk", NBD_STRUCTURED);
	assert_int_equal(nbd_client_read(&c, 0, &byte, 0), 0);
	nbd_stage_run(&st);
	for (unsigned i = 0; i < CROWD; i++) {
		alive += stream_recv(&crowd[i].stream, &byte, 1) == -EAGAIN;
		nbd_client_close(&crowd[i]);
	}
	assert_int_equal(alive, 63);
	nbd_client_close(&c);
}

static void
test_handshake_takes_too_long(void **state)
{
	struct nbd_client c;

	hand_clock_start();
	nbd_stage_start(&st, REACTOR_ADAPTIVE, false);
	greeted(&c);
	assert_int_equal(nbd_client_ask(&c, NBD_OPT_STRUCTURED_REPLY), NBD_REP_ACK);
	hand_advance(st.env.reactors[0], 9900000);
	assert_int_equal(nbd_client_ask(&c, NBD_OPT_STRUCTURED_REPLY), NBD_REP_ACK);
	hand_advance(st.env.reactors[0], 200000);
	nbd_client_expect_end(&c);
	nbd_client_close(&c);
	nbd_stage_stop(&st);
	hand_clock_stop();
}

/* A full server takes the next client when one leaves. */
static void
test_full_server(void **state)
{
	char path[80];
	struct nbd_server_options o = {.name = "small", .unix_path = path, .max_connections = 2};
	struct nbd_client a, b, c;
	char data[512];

	snprintf(path, sizeof(path), "%s/small", st.dir);
	assert_int_equal(nbd_stage_server(&st, &o), 0);
	snprintf(st.path, sizeof(st.path), "%s", path);
	nbd_client_open(&a, &st, "disk", NBD_SIMPLE);
	nbd_client_open(&b, &st, "disk", NBD_SIMPLE);
	nbd_client_connect(&c, &st);
	nbd_stage_run(&st);
	assert_int_equal(stream_recv(&c.stream, data, 1), -EAGAIN);
	nbd_client_close(&a);
	nbd_client_greet(&c, BOTH);
	assert_int_equal(nbd_client_choose(&c, NBD_OPT_GO, "disk"), NBD_REP_ACK);
	assert_int_equal(nbd_client_read(&c, 0, data, sizeof(data)), 0);
	nbd_client_close(&b);
	nbd_client_close(&c);
}

/* An export of one server is not seen on the other. */
static void
test_export_of_one_server(void **state)
{
	char path[80];
	struct nbd_server_options server = {.name = "other", .unix_path = path};
	struct nbd_export_options o = {.name = "mine", .bdev_name = "disk", .server = "other"};
	struct nbd_client c;

	snprintf(path, sizeof(path), "%s/other", st.dir);
	assert_int_equal(nbd_stage_export(&st, &o), -ENODEV);
	assert_int_equal(nbd_stage_server(&st, &server), 0);
	assert_int_equal(nbd_stage_export(&st, &o), 0);
	assert_int_equal(nbd_stage_server_delete(&st, "other"), -EBUSY);
	greeted(&c);
	assert_int_equal(nbd_client_choose(&c, NBD_OPT_INFO, "mine"), NBD_REP_ERR_UNKNOWN);
	nbd_client_close(&c);
	snprintf(st.path, sizeof(st.path), "%s", path);
	greeted(&c);
	assert_int_equal(nbd_client_choose(&c, NBD_OPT_INFO, "mine"), NBD_REP_ACK);
	assert_int_equal(nbd_client_choose(&c, NBD_OPT_INFO, "disk"), NBD_REP_ACK);
	nbd_client_close(&c);
	assert_int_equal(nbd_stage_export_delete(&st, "mine"), 0);
	assert_int_equal(nbd_stage_server_delete(&st, "other"), 0);
}

static void
test_wrong_options(void **state)
{
	struct nbd_server_options slash = {.name = "a/b"}, again = {.name = "nbd"};
	struct nbd_server_options two = {.name = "two", .unix_path = "/x", .tcp = "*:1"};
	struct nbd_server_options tls = {.name = "tls", .tls = NBD_TLS_REQUIRED}, off = {.name = "off", .tls_psk = "/x"};
	struct nbd_server_options taken = {.name = "taken", .unix_path = st.path}, port = {.name = "port", .tcp = "nowhere"};
	struct nbd_export_options nameless = {.name = "", .bdev_name = "disk"}, nothing = {.name = "n", .bdev_name = "nothing"};

	assert_int_equal(nbd_stage_server(&st, &slash), -EINVAL);
	assert_int_equal(nbd_stage_server(&st, &again), -EEXIST);
	assert_int_equal(nbd_stage_server(&st, &two), -EINVAL);
	assert_int_equal(nbd_stage_server(&st, &tls), -EINVAL);
	assert_int_equal(nbd_stage_server(&st, &off), -EINVAL);
	assert_int_equal(nbd_stage_server(&st, &port), -EINVAL);
	assert_int_equal(nbd_stage_export(&st, &nameless), -EINVAL);
	assert_int_equal(nbd_stage_export(&st, &nothing), -ENODEV);
	assert_int_equal(nbd_stage_server(&st, &taken), -EADDRINUSE);
}

/* ---- TLS ---- */

static void
start_server(const char *name, enum nbd_tls tls, bool verify)
{
	char path[80];
	struct nbd_server_options o = {
		.name = name, .unix_path = path, .tls = tls, .tls_certs = certs, .tls_psk = keys, .tls_verify_peer = verify};

	snprintf(path, sizeof(path), "%s/%s", st.dir, name);
	assert_int_equal(nbd_stage_server(&st, &o), 0);
	snprintf(st.path, sizeof(st.path), "%s", path);
}

static bool
shake_hands(struct nbd_client *c, const struct tls_options *o)
{
	struct err err = ERR_NONE;
	struct tls_credentials *credentials = tls_credentials_create(o, &err);
	int rc;

	assert_non_null(credentials);
	assert_int_equal(stream_start_tls(&c->stream, credentials, NULL, NULL), 0);
	tls_credentials_put(credentials);
	for (unsigned i = 0; i < 100000 && (rc = stream_handshake(&c->stream, &err)) == -EAGAIN; i++) {
		reactor_poll_wait(st.env.reactors[0], 100);
	}
	return rc == 0;
}

static void
test_tls(void **state)
{
	static const size_t sizes[] = {512, 16384, 131072, 3 << 20};
	struct tls_options psk = {.psk_file = keys, .psk_user = "alice"}, x509 = {.cert_dir = certs};
	const struct tls_options *both[] = {&psk, &x509};
	uint8_t *data = malloc(3 << 20), *copy = malloc(3 << 20);

	start_server("tls", NBD_TLS_REQUIRED, false);
	for (unsigned i = 0; i < 2; i++) {
		struct nbd_client c;

		greeted(&c);
		assert_int_equal(nbd_client_ask(&c, NBD_OPT_LIST), NBD_REP_ERR_TLS_REQD);
		assert_int_equal(nbd_client_choose(&c, NBD_OPT_GO, "disk"), NBD_REP_ERR_TLS_REQD);
		assert_int_equal(nbd_client_choose(&c, NBD_OPT_GO, "nothing"), NBD_REP_ERR_TLS_REQD);
		assert_int_equal(nbd_client_ask(&c, NBD_OPT_STARTTLS), NBD_REP_ACK);
		assert_true(shake_hands(&c, both[i]));
		assert_int_equal(nbd_client_ask(&c, NBD_OPT_STARTTLS), NBD_REP_ERR_INVALID);
		assert_int_equal(nbd_client_ask(&c, NBD_OPT_STRUCTURED_REPLY), NBD_REP_ACK);
		assert_int_equal(nbd_client_choose(&c, NBD_OPT_GO, "disk"), NBD_REP_ACK);
		c.style = NBD_STRUCTURED;
		for (unsigned s = 0; s < ARRAY_SIZE(sizes); s++) {
			memset(data, (int)(s + i + 1), sizes[s]);
			assert_int_equal(nbd_client_write(&c, 0, 4096, data, sizes[s]), 0);
			assert_int_equal(nbd_client_read(&c, 4096, copy, sizes[s]), 0);
			assert_memory_equal(copy, data, sizes[s]);
		}
		nbd_client_close(&c);
	}
	free(data);
	free(copy);
}

/* What was negotiated before TLS is forgotten, and what was sent before it is not taken for something that came after it. */
static void
test_tls_forgets(void **state)
{
	struct tls_options psk = {.psk_file = keys, .psk_user = "bob"};
	uint8_t out[2 * NBD_OPTION_BYTES], *p = out;
	struct nbd_client c;

	start_server("tls", NBD_TLS_OPTIONAL, false);
	greeted(&c);
	assert_int_equal(nbd_client_ask(&c, NBD_OPT_STRUCTURED_REPLY), NBD_REP_ACK);
	assert_int_equal(nbd_client_set_allocation(&c, "disk"), NBD_REP_ACK);
	assert_int_equal(nbd_client_ask(&c, NBD_OPT_STARTTLS), NBD_REP_ACK);
	assert_true(shake_hands(&c, &psk));
	assert_int_equal(nbd_client_set_allocation(&c, "disk"), NBD_REP_ERR_INVALID);
	nbd_client_close(&c);

	greeted(&c);
	for (unsigned i = 0; i < 2; i++) {
		p = nbd_put64(p, NBD_OPTION_MAGIC);
		p = nbd_put32(nbd_put32(p, i == 0 ? NBD_OPT_STARTTLS : NBD_OPT_STRUCTURED_REPLY), 0);
	}
	nbd_client_send(&c, out, sizeof(out));
	assert_int_equal(nbd_client_option_reply(&c, NBD_OPT_STARTTLS, NULL, 0, NULL), NBD_REP_ACK);
	assert_false(shake_hands(&c, &psk));
	nbd_client_close(&c);

	/* Without TLS, where it is up to the client. */
	nbd_client_open(&c, &st, "disk", NBD_STRUCTURED);
	nbd_client_close(&c);
}

static void
test_tls_is_refused(void **state)
{
	struct nbd_client c;

	start_server("tls", NBD_TLS_REQUIRED, true);
	greeted(&c);
	nbd_client_option(&c, NBD_OPT_EXPORT_NAME, "disk", 4);
	nbd_client_expect_end(&c);
	nbd_client_close(&c);
	greeted(&c);
	assert_int_equal(nbd_client_ask(&c, NBD_OPT_STARTTLS), NBD_REP_ACK);
	nbd_client_send(&c, "no TLS at all, but a text", 25);
	for (unsigned i = 0; i < 1000; i++) {
		char junk[64];

		/* An alert, perhaps, and then the end. */
		if (!nbd_client_recv(&c, junk, 1)) {
			nbd_client_close(&c);
			return;
		}
	}
	fail();
}

static int
make_files(void **state)
{
	certs = certs_make();
	keys = path_join(certs, "keys.psk");
	return 0;
}

static int
remove_files(void **state)
{
	certs_remove(certs);
	free(keys);
	return 0;
}

#define STAGED(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		STAGED(test_export_name),     STAGED(test_in_one_go),
		STAGED(test_list),            STAGED(test_information),
		STAGED(test_contexts),        STAGED(test_contexts_of_others),
		STAGED(test_extended_headers),
		STAGED(test_refusals),        STAGED(test_hostile_handshakes),
		STAGED(test_too_many_options), STAGED(test_crowd),
		cmocka_unit_test(test_handshake_takes_too_long),
		STAGED(test_full_server),     STAGED(test_export_of_one_server),
		STAGED(test_wrong_options),   STAGED(test_tls),
		STAGED(test_tls_forgets),     STAGED(test_tls_is_refused),
	};

	return cmocka_run_group_tests(tests, make_files, remove_files);
}
