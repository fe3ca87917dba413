/* SPDX-License-Identifier: BSD-3-Clause */
/* For tests of the offline checker: ways to damage the made-up store (testkit/blob_made.h), looks at it, what is saved of it. */
#ifndef BLOB_HARNESS_OFFLINE_H
#define BLOB_HARNESS_OFFLINE_H

#include "testkit/blob_made.h"

struct offline_case {
	const char *name;
	void (*make)(void); /* of what make_store() made */
	enum blob_finding_kind kind;
	unsigned others; /* bits of kinds that follow from it; no more */
	bool stays;      /* nothing can be done about it, or needs to be */
};

extern const struct offline_case offline_cases[];
extern const unsigned num_offline_cases;

/* As the spec says now. */
void again(unsigned b);
/* Some of the cases, for those who look at what becomes of contents. */
void bad_shared(void);
void bad_flags(void);
void bad_extent(void);
void note_group(void);
void note_making(void);

/* The test fails when the store cannot be looked at. To be released. */
struct blob_check_report look(bool repair);
void say(const char *name, const struct blob_check_report *report);
void expect_sound(const char *name);
struct blob_survey *survey(void);

extern uint8_t saved[VIRTUAL]; /* first byte of each cluster */
extern uint64_t lost;
/* The volume that begins in the page. */
void salvage(const struct blob_survey *s, uint32_t page);
/* It was saved over its parent, by the made-up maps; without one: below == b. */
void expect_saved(unsigned b, unsigned below);

#endif
