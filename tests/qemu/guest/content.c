/* SPDX-License-Identifier: MIT */
/* Content that can be checked without having been kept: a sequence that its seed decides. */
#include "work.h"

#define STEP 0x9e3779b97f4a7c15ull

static uint64_t mix(uint64_t x)
{
	x ^= x >> 32;
	x *= 0xd6e8feb86659fd93ull;
	x ^= x >> 32;
	return x;
}

uint64_t seed_of(uint64_t object, uint64_t version)
{
	return mix(mix(object + 1) + version * STEP);
}

void fill(void *bytes, size_t length, uint64_t seed)
{
	uint64_t *words = bytes;

	for (size_t i = 0; i < length / sizeof(*words); i++) {
		seed += STEP;
		words[i] = seed ^ seed >> 29;
	}
}

size_t find_difference(const void *bytes, size_t length, uint64_t seed)
{
	const uint64_t *words = bytes;

	for (size_t i = 0; i < length / sizeof(*words); i++) {
		seed += STEP;
		if (words[i] != (seed ^ seed >> 29))
			return i * sizeof(*words);
	}
	return length;
}
