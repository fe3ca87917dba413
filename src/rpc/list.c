/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Long lists, made a slice at a time. What is in the list is decided at the start, by name; each thing is looked up
 * again when its turn comes, so that no iterator has to outlive a slice. App thread.
 *
 * Invariants
 *  1. A list has its request until it answers it, once.
 *  2. A short list, the usual one, is answered before rpc_list_end() returns.
 *  3. Of the lists that are not, the one that was begun first is made, a slice a turn, while the others keep their names
 *     only: however many there are, I/O of the thread waits for one slice, and one list's text is in memory.
 *
 * Rejected: one tree of JSON values for all, printed at the end. For ten thousand bdevs that took 300 ms in one go, during
 * which no I/O of the reactor went on, and four times the memory of the text.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/list.h"
#include "event/thread.h"
#include "rpc/internal.h"
#include "rpc/rpc.h"

struct rpc_list {
	struct list link;
	struct rpc_request *req;
	json_t *(*item)(const void *ctx, const char *name);
	const void *ctx;
	struct rpc_text names; /* each with its zero byte */
	size_t next;           /* in names */
	struct rpc_text out;
};

static struct list running = {&running, &running};
static unsigned running_count;
static struct msg turn_msg;
static bool turn_asked;

static void
list_free(struct rpc_list *list)
{
	list_remove(&list->link);
	rpc_text_release(&list->names);
	rpc_text_release(&list->out);
	free(list);
}

static void
add_item(struct rpc_list *list, const char *name)
{
	json_t *json = list->item(list->ctx, name);

	if (json != NULL) {
		rpc_text_add_string(&list->out, list->out.bytes == 0 ? "[" : ",");
		rpc_text_add_json(&list->out, json);
		json_decref(json);
	}
}

/* True when all is made. */
static bool
make_slice(struct rpc_list *list)
{
	uint64_t end_ns = clock_now_ns() + RPC_SLICE_NS;

	while (list->next < list->names.bytes) {
		const char *name = list->names.data + list->next;

		list->next += strlen(name) + 1;
		add_item(list, name);
		if (clock_now_ns() >= end_ns) {
			break;
		}
	}
	return list->next >= list->names.bytes || list->out.failed;
}

static void
answer(struct rpc_list *list)
{
	rpc_text_add_string(&list->out, list->out.bytes == 0 ? "[]" : "]");
	if (list->out.failed || list->names.failed) {
		rpc_error(list->req, -ENOMEM, "out of memory for the answer");
	} else {
		rpc_result_text(list->req, &list->out);
	}
	list_free(list);
}

static void go_on(struct msg *msg);

static void
ask_for_turn(void)
{
	if (!turn_asked && !list_empty(&running)) {
		turn_asked = true;
		thread_send(thread_self(), &turn_msg, go_on);
	}
}

static void
go_on(struct msg *msg)
{
	turn_asked = false;
	if (!list_empty(&running)) {
		struct rpc_list *list = LIST_FIRST(&running, struct rpc_list, link);

		if (make_slice(list)) {
			running_count--;
			answer(list);
		}
		ask_for_turn();
	}
}

struct rpc_list *
rpc_list_begin(struct rpc_request *req, json_t *(*item)(const void *ctx, const char *name), const void *ctx)
{
	struct rpc_list *list = calloc(1, sizeof(*list));

	if (list == NULL) {
		rpc_error(req, -ENOMEM, "out of memory for the answer");
		return NULL;
	}
	list->req = req;
	list->item = item;
	list->ctx = ctx;
	return list;
}

void
rpc_list_add(struct rpc_list *list, const char *name)
{
	if (list != NULL) {
		rpc_text_add(&list->names, name, strlen(name) + 1);
	}
}

void
rpc_list_end(struct rpc_list *list)
{
	if (list == NULL) {
		return;
	}
	if (make_slice(list)) {
		answer(list);
		return;
	}
	list_append(&running, &list->link);
	running_count++;
	ask_for_turn();
}

unsigned
rpc_lists_running(void)
{
	return running_count;
}

void
rpc_lists_end(void)
{
	while (!list_empty(&running)) {
		struct rpc_list *list = LIST_FIRST(&running, struct rpc_list, link);
		struct rpc_request *req = list->req;

		running_count--;
		list_free(list);
		rpc_error(req, -ECANCELED, "berthd is stopping");
	}
}
