/* SPDX-License-Identifier: MIT */
/* Streams made by hand, field by field. */
#ifndef TEST_QEMU_MADE_H
#define TEST_QEMU_MADE_H

#include "replay.h"

#define MADE_RAM_ID	   2
#define MADE_FIRST_BYTES   (16ull * STREAM_PAGE_SIZE)
#define MADE_SECOND_BYTES  (4ull * STREAM_PAGE_SIZE)
#define MADE_FLAG_MEM_SIZE 0x004u
#define MADE_FLAG_CONTINUE 0x020u

/* The stream made so far. */
extern struct bytes stream;

void put(const void *data, size_t length);
void put8(uint8_t value);
void put16(uint16_t value);
void put32(uint32_t value);
void put64(uint64_t value);
void put_name(const char *name);
void put_magic(void);
void put_configuration(void);
void put_subsection(const char *name, uint32_t version);
void put_command(uint16_t number, uint16_t length);
void put_section(uint8_t type, const char *name, uint32_t instance, uint32_t version);
void put_ram(uint64_t total);
void put_block(const char *name, uint64_t bytes);
void put_footer(void);
void put_eos(void);
void put_part(uint8_t type);

/* Everything before the first PART, with the blocks "first" and "second". */
void put_start(void);
void put_zero(const char *block, uint64_t offset);
void put_page(const char *block, uint64_t offset);

/* Parses the stream with "behind" after it, whole and byte by byte. */
struct replay *parse(void);
/* Frees it, and the stream too. */
void end(struct replay **r);

/* Parse the stream and free it: it passes, and all is handed on; it fails. */
void expect_pass(const char *reason);
void expect_failure(const char *reason);

/* Once in the first PART, where it passes, and once behind a page, where it fails. */
void expect_refused(void (*put_it)(void), const char *reason);

#endif
