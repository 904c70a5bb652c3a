/* SPDX-License-Identifier: MIT */
/*
 * Carries a machine to another one in this process through the callbacks, as the engine would call
 * them.
 */
#ifndef TEST_VMM_FERRY_H
#define TEST_VMM_FERRY_H

#include "guests.h"

/*
 * describe, check, prepare, pause, save, memory, load, run, closing, committed. The source stays
 * paused.
 */
struct vmm *ferry(struct vmm *source);

#endif
