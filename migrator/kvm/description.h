/* SPDX-License-Identifier: MIT */
/*
 * What the source's description and the destination's check share beyond the sections
 * themselves.
 */
#ifndef KVM_DESCRIPTION_H
#define KVM_DESCRIPTION_H

#include <stdint.h>

/* A KVM capability that the source has, and what KVM_CHECK_EXTENSION said of it. */
struct description_cap {
	uint32_t cap;
	uint32_t value;
};

/*
 * The capabilities that state cannot be loaded without; NULL for a number that is none of them.
 */
const char *description_cap_name(uint32_t cap);

#endif
