/* SPDX-License-Identifier: MIT */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "made.h"
#include "migrator/qemu/bytes.h"

struct bytes stream;

void put(const void *data, size_t length)
{
	bytes_add(&stream, data, length);
}

void put8(uint8_t value)
{
	put(&value, 1);
}

void put16(uint16_t value)
{
	uint8_t bytes[2];

	be16_put(bytes, value);
	put(bytes, sizeof(bytes));
}

void put32(uint32_t value)
{
	uint8_t bytes[4];

	be32_put(bytes, value);
	put(bytes, sizeof(bytes));
}

void put64(uint64_t value)
{
	uint8_t bytes[8];

	be64_put(bytes, value);
	put(bytes, sizeof(bytes));
}

void put_name(const char *name)
{
	put8((uint8_t)strlen(name));
	put(name, strlen(name));
}

void put_magic(void)
{
	put("QEVM", 4);
	put32(3);
}

void put_configuration(void)
{
	put_magic();
	put8(7);
	put32(4);
	put("none", 4);
}

void put_subsection(const char *name, uint32_t version)
{
	put8(5);
	put_name(name);
	put32(version);
}

void put_command(uint16_t number, uint16_t length)
{
	static const uint8_t zeroes[16];

	put8(8);
	put16(number);
	put16(length);
	put(zeroes, length);
}

void put_section(uint8_t type, const char *name, uint32_t instance, uint32_t version)
{
	put8(type);
	put32(MADE_RAM_ID);
	put_name(name);
	put32(instance);
	put32(version);
}

void put_ram(uint64_t total)
{
	put_section(1, "ram", 0, 4);
	put64(total | MADE_FLAG_MEM_SIZE);
}

void put_block(const char *name, uint64_t bytes)
{
	put_name(name);
	put64(bytes);
}

void put_footer(void)
{
	put8(0x7e);
	put32(MADE_RAM_ID);
}

void put_eos(void)
{
	put64(STREAM_FLAG_EOS);
	put_footer();
}

void put_part(uint8_t type)
{
	put8(type);
	put32(MADE_RAM_ID);
}

void put_start(void)
{
	put_configuration();
	put_ram(MADE_FIRST_BYTES + MADE_SECOND_BYTES);
	put_block("first", MADE_FIRST_BYTES);
	put_block("second", MADE_SECOND_BYTES);
	put_eos();
}

void put_zero(const char *block, uint64_t offset)
{
	put64(offset | STREAM_FLAG_ZERO);
	put_name(block);
	put8(0);
}

void put_page(const char *block, uint64_t offset)
{
	static const uint8_t page[STREAM_PAGE_SIZE] = {0x55};

	put64(offset | STREAM_FLAG_PAGE);
	put_name(block);
	put(page, sizeof(page));
}

struct replay *parse(void)
{
	struct replay *r = replay_new(), *bytewise = replay_new();

	put("behind", 6);
	replay_feed(r, stream.data, stream.length);
	for (size_t i = 0; i < stream.length; i++)
		replay_feed(bytewise, stream.data + i, 1);
	replay_expect_same(r, bytewise, "byte by byte");
	replay_free(&bytewise);
	return r;
}

void end(struct replay **r)
{
	replay_free(r);
	bytes_free(&stream);
}

void expect_pass(const char *reason)
{
	struct replay *r = parse();

	cr_assert_eq(r->error, 0, "%s", r->stream.reason);
	cr_assert_str_eq(r->stream.reason, reason, "'%s', not '%s'", r->stream.reason, reason);
	cr_assert(r->stream.passing && !r->stream.finished && !r->stream.committed);
	cr_assert_eq(replay_count(r, STREAM_PASS, 0), 1);
	/* All of it was handed on, as it was. */
	cr_assert_eq(r->out.length, stream.length);
	cr_assert_eq(memcmp(r->out.data, stream.data, stream.length), 0);
	end(&r);
}

void expect_failure(const char *reason)
{
	struct replay *r = parse();

	cr_assert_eq(r->error, -EPROTO);
	cr_assert_str_eq(r->stream.reason, reason, "'%s', not '%s'", r->stream.reason, reason);
	end(&r);
}

void expect_refused(void (*put_it)(void), const char *reason)
{
	put_start();
	put_part(2);
	put_it();
	expect_pass(reason);
	put_start();
	put_part(2);
	put_zero("first", 0);
	put_it();
	expect_failure(reason);
}
