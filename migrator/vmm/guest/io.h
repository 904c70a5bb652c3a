/* SPDX-License-Identifier: MIT */
/*
 * Port I/O, for ring 0 only.
 */
#ifndef GUEST_IO_H
#define GUEST_IO_H

#include <stdint.h>

static inline void out_byte(uint16_t port, uint8_t byte)
{
	__asm__ volatile("outb %0, %1" ::"a"(byte), "Nd"(port));
}

static inline uint8_t in_byte(uint16_t port)
{
	uint8_t byte;

	__asm__ volatile("inb %1, %0" : "=a"(byte) : "Nd"(port));
	return byte;
}

#endif
