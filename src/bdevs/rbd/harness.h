/* SPDX-License-Identifier: BSD-3-Clause */
/* Calls that play the part of a cluster with one image, in memory. Its answers come from a system thread, in any order. */
#ifndef BDEVS_RBD_HARNESS_H
#define BDEVS_RBD_HARNESS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FAKE_OBJECT_BYTES ((uint64_t)256 << 10)
#define FAKE_POOL "pool"
#define FAKE_IMAGE "image"

struct fake {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	pthread_t thread;
	bool stop, mute;
	uint8_t *data;
	uint64_t bytes, room;
	bool *objects; /* those that are there */
	struct fake_completion *waiting;
	bool answering;
	unsigned asked; /* questions that wait for the cluster to speak */
	void (*changed)(void *arg);
	void *changed_arg;
	char settings[512]; /* "name=value;" of each that was set */

	/* What goes wrong; 0: nothing. */
	atomic_int connect_fails, open_fails, submit_fails, answer_fails;
	atomic_bool silent; /* opening and closing do not come back */
	atomic_int no_threads; /* so many are not to be had */

	/* What is there. */
	atomic_int clusters, pools, images, completions, watches;
	atomic_int native_swaps;
};

extern struct fake fake;

/* An image of so many bytes, with room to grow. In place of librbd from now on. */
void fake_start(uint64_t bytes, uint64_t room);
/* Nothing may be left over. */
void fake_stop(void);
/* The cluster keeps what it has been asked to itself; closing the image waits for that. */
void fake_mute(bool mute);
/* As somebody else would. */
void fake_resize(uint64_t bytes);

#endif
