/* SPDX-License-Identifier: MIT */
#ifndef TESTS_QEMU_FIND_FIXTURE_H
#define TESTS_QEMU_FIND_FIXTURE_H

#include "migrator/qemu/mappings.h"

#define FIXTURE_MAPPINGS 256
#define MIB		 (UINT64_C(1) << 20)

/* The text of a file, to be freed. */
char *fixture_text(const char *name);

/* The mappings of a file. */
unsigned int fixture_mappings(const char *name, struct process_mapping list[FIXTURE_MAPPINGS]);

/* Of a text. */
int parse_text(const char *text, struct process_mapping *list, unsigned int max);

#endif
