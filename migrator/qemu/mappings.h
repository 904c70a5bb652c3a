/* SPDX-License-Identifier: MIT */
/* The text of /proc/PID/smaps, apart from any process. */
#ifndef QEMU_MAPPINGS_H
#define QEMU_MAPPINGS_H

#include <stdio.h>

#include "process.h"

/*
 * The mappings that process_mappings() is to tell of, of the text of /proc/PID/smaps; as it, but
 * for the descriptors.
 */
int mappings_parse(FILE *smaps, struct process_mapping *list, unsigned int max);

#endif
