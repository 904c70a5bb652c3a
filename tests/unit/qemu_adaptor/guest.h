/* SPDX-License-Identifier: MIT */
/* A guest's memory at the destination, and what should be in it. */
#ifndef TEST_GUEST_H
#define TEST_GUEST_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "migrator/qemu/placement.h"

#define GUEST_PAGE   4096u
#define GUEST_BLOCKS 4u

struct guest_block {
	const char *name;
	uint64_t pages;
	enum placement_kind kind; /* where placement_find() is to find it */
	int file;		  /* -1: private memory */
	uint8_t *memory;
	uint64_t *model; /* the word that each page is full of; 0: zeroes */
};

struct guest {
	pthread_mutex_t lock; /* of the models */
	struct guest_block blocks[GUEST_BLOCKS];
	unsigned int count;
	bool autostart; /* its QEMU was started without -S */
	uint64_t random;
};

/*
 * With the kinds of the blocks in turn; parts of the memory hold something that a migration has to
 * replace.
 */
void guest_open(struct guest *guest, uint64_t seed, const enum placement_kind *kinds,
		unsigned int count, uint64_t pages);
void guest_close(struct guest *guest);

/* The guest that placement_find() finds from now on. */
void guest_set_current(struct guest *guest);

/* How many pages are not as they should be. */
unsigned int guest_wrong_pages(struct guest *guest);

void guest_fill_page(void *page, uint64_t word);

uint64_t guest_random(uint64_t *state);

/* 0 to @below - 1 */
uint32_t guest_draw(uint64_t *state, uint32_t below);

#endif
