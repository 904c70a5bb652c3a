/* SPDX-License-Identifier: MIT */
/*
 * Lets Criterion run under ThreadSanitizer. The sandbox below Criterion (BoxFort) maps an arena at
 * a random address, nearly always outside of what ThreadSanitizer allows, and gives up. It draws
 * the address with rand_r(3), from the low 22 bits, in steps of 16 MiB above 0x200000000000; so the
 * executable brings a rand_r that stays within 0x560000000000-0x567000000000.
 */
#include <stdlib.h>

#define ARENA_FIRST 0x360000u
#define ARENA_COUNT 0x7000u

__attribute__((visibility("default"))) int rand_r(unsigned int *seed)
{
	*seed = *seed * 1103515245u + 12345u;
	return (int)(ARENA_FIRST + (*seed >> 16) % ARENA_COUNT);
}
