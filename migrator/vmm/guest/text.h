/* SPDX-License-Identifier: MIT */
/*
 * A line of text put together piece by piece, and where it goes: the console. Usable in ring 0 and
 * ring 3 once the gate is up.
 */
#ifndef GUEST_TEXT_H
#define GUEST_TEXT_H

#include <stdint.h>

struct text {
	char bytes[256];
	uint32_t length;
};

/* What does not fit is cut off. */
void text_add(struct text *text, const char *string);
void text_add_decimal(struct text *text, uint64_t number);
void text_add_hex(struct text *text, uint64_t number);

/* Ends the line and writes it in one piece, whatever other vCPUs write. */
void text_say(struct text *text);

#endif
