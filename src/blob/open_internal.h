/* SPDX-License-Identifier: BSD-3-Clause */
/* What making a store (create.c) and loading one (load.c) begin and end with: open.c. */
#ifndef BLOB_OPEN_INTERNAL_H
#define BLOB_OPEN_INTERNAL_H

#include "blob/internal.h"
#include "event/steps.h"

struct opening {
	struct steps steps;
	struct defer defer;
	struct blob_store *store;
	struct store_io *io; /* of the super block */
	void (*release)(struct opening *o); /* before it is answered, and freed by itself; may be NULL */
	blob_store_done_fn done;
	void *ctx;
	int status;
	struct err err;
};

/* Takes o, from calloc() (NULL: there was no memory), and dev. 0, or -ENOMEM and no answer comes. */
int opening_start(struct opening *o, struct blob_dev *dev, const struct blob_store_options *options, const struct step *steps,
		  unsigned num_steps, blob_store_done_fn done, void *ctx);
/* ctx: the opening. Answers of what a step waits for. */
void opening_step_done(void *ctx, int status);
/* Steps: the super block to io->buf; what a store has besides its blobs. */
int opening_read_super(struct steps *s);
int opening_get_ready(struct steps *s);

#endif
