/* SPDX-License-Identifier: MIT */
/* How far two TSC frequencies may lie apart. */
#ifndef KVM_TSC_H
#define KVM_TSC_H

#include <stdbool.h>
#include <stdint.h>

/* KVM's own tolerance (tsc_tolerance_ppm): crystals differ by that much, and NTP corrects it. */
#define TSC_TOLERANCE_PPM 250u

static inline bool tsc_khz_close(uint32_t a, uint32_t b)
{
	uint64_t apart = a > b ? a - b : b - a;

	return apart * 1000000u <= (uint64_t)b * TSC_TOLERANCE_PPM;
}

#endif
