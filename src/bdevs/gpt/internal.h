/* SPDX-License-Identifier: BSD-3-Clause */
/* Shared by the files of src/bdevs/gpt; never leaves it. */
#ifndef BDEVS_GPT_INTERNAL_H
#define BDEVS_GPT_INTERNAL_H

#include "base/err.h"
#include "bdevs/gpt/parse.h"

/* 0 or the error of stack_create(). */
int gpt_add_partition(const char *base_name, const struct gpt_table *table,
		      const struct gpt_partition *found, struct err *err);

#endif
