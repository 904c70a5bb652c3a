/* SPDX-License-Identifier: MIT */
/*
 * Lines of text for the console. A lock keeps vCPUs from mixing their lines.
 */
#include <stdatomic.h>

#include "abi.h"
#include "machine.h"
#include "text.h"

static atomic_flag console_lock = ATOMIC_FLAG_INIT;

static void add_byte(struct text *text, char byte)
{
	if (text->length < sizeof(text->bytes) - 1) /* room for the newline */
		text->bytes[text->length++] = byte;
}

void text_add(struct text *text, const char *string)
{
	while (*string)
		add_byte(text, *string++);
}

static void add_number(struct text *text, uint64_t number, unsigned int base)
{
	char digits[20];
	unsigned int count = 0;

	do {
		digits[count++] = "0123456789abcdef"[number % base];
		number /= base;
	} while (number);
	while (count)
		add_byte(text, digits[--count]);
}

void text_add_decimal(struct text *text, uint64_t number)
{
	add_number(text, number, 10);
}

void text_add_hex(struct text *text, uint64_t number)
{
	text_add(text, "0x");
	add_number(text, number, 16);
}

void text_say(struct text *text)
{
	text->bytes[text->length++] = '\n';
	while (atomic_flag_test_and_set_explicit(&console_lock, memory_order_acquire))
		cpu_relax();
	gate_out(GUEST_PORT_CONSOLE, text->bytes, text->length);
	atomic_flag_clear_explicit(&console_lock, memory_order_release);
	text->length = 0;
}
