/* SPDX-License-Identifier: MIT */
/*
 * Pages against their versions: verify, complain, rewrite. A migration takes memory and the vCPU
 * at one instant, so program order is all the order that a rewrite and its version need.
 */
#include "abi.h"
#include "memory.h"
#include "page.h"
#include "text.h"
#include "work.h"

#define LINES_MAX \
	64 /* on the console, from each vCPU: a lost gigabyte must not take hours to tell */

static _Atomic uint64_t all_faults;

uint64_t check_faults(void)
{
	return atomic_load(&all_faults);
}

static void begin(struct text *text, const struct worker *worker, uint64_t gpa)
{
	text->length = 0;
	text_add(text, "guest: fault: vcpu ");
	text_add_decimal(text, worker->cpu->index);
	text_add(text, " page ");
	text_add_hex(text, gpa);
	text_add(text, ": ");
}

static void add_version(struct text *text, uint32_t version)
{
	text_add(text, version & VERSION_CLEAR ? "zeros since version " : "version ");
	text_add_decimal(text, version & ~VERSION_CLEAR);
}

static void add_verdict(struct text *text, const struct page_verdict *verdict)
{
	static const char *const names[] = {
		[PAGE_RIGHT] = "right when read again",
		[PAGE_LOST] = "lost, it is all zero",
		[PAGE_FOREIGN] = "foreign",
		[PAGE_TORN] = "torn",
		[PAGE_STALE] = "stale",
		[PAGE_NEWER] = "newer than the version table",
	};

	text_add(text, names[verdict->state]);
	if (verdict->state == PAGE_TORN && verdict->offset) {
		text_add(text, " from offset ");
		text_add_hex(text, verdict->offset);
	}
	if (verdict->found_gpa) {
		text_add(text, ", its header says page ");
		text_add_hex(text, verdict->found_gpa);
		text_add(text, " version ");
		text_add_decimal(text, verdict->found_version);
	} else if (verdict->state == PAGE_TORN || verdict->state == PAGE_FOREIGN) {
		text_add(text, ", its header is damaged");
	}
	text_add(text, "; expected ");
}

static void complain(struct worker *worker, struct text *text)
{
	char status = GUEST_STATUS_FAULT;

	atomic_fetch_add(&all_faults, 1);
	worker->faults++;
	if (worker->faults == LINES_MAX)
		text_add(text, " (further faults of this vcpu are only counted)");
	if (worker->faults <= LINES_MAX)
		text_say(text);
	gate_out(GUEST_PORT_STATUS, &status, 1);
}

static void complain_of_page(struct worker *worker, uint64_t gpa, uint32_t version)
{
	struct page_verdict verdict;
	struct text text;

	page_judge(at_address(gpa), gpa, version & ~VERSION_CLEAR, version & VERSION_CLEAR,
		   &verdict);
	begin(&text, worker, gpa);
	add_verdict(&text, &verdict);
	add_version(&text, version);
	complain(worker, &text);
}

static void complain_of_table(struct worker *worker, uint64_t gpa, uint32_t version, uint32_t other)
{
	struct text text;

	begin(&text, worker, gpa);
	text_add(&text, "version table damaged: one copy says ");
	add_version(&text, version);
	text_add(&text, ", the other ");
	add_version(&text, other);
	complain(worker, &text);
}

static bool right(const uint64_t *page, uint64_t gpa, uint32_t version, bool touch)
{
	if (version & VERSION_CLEAR)
		return page_is_clear(page);
	return touch ? page_right_touch(page, gpa, version) : page_right(page, gpa, version);
}

/* Complains if need be; *version is what the page should hold. */
static bool verify(struct worker *worker, uint64_t page, bool touch, uint32_t *version)
{
	uint64_t gpa = memory_gpa(page);
	uint32_t other;

	if (!memory_version(page, version, &other)) {
		complain_of_table(worker, gpa, *version, other);
		return false;
	}
	if (!right(at_address(gpa), gpa, *version, touch)) {
		complain_of_page(worker, gpa, *version);
		return false;
	}
	return true;
}

static uint32_t version_after(uint32_t version)
{
	return (version + 1) & ~VERSION_CLEAR;
}

void check_rewrite(struct worker *worker, uint64_t page)
{
	uint64_t gpa = memory_gpa(page);
	uint32_t version;
	bool is_right = verify(worker, page, options.touch_line, &version);
	bool was_clear = version & VERSION_CLEAR;

	version = version_after(version);
	if (options.zero_percent && worker_random(worker) % 100 < options.zero_percent) {
		page_clear(at_address(gpa));
		version |= VERSION_CLEAR;
	} else if (options.touch_line && is_right && !was_clear) {
		page_touch(at_address(gpa), gpa, version);
	} else {
		page_write(at_address(gpa), gpa, version);
	}
	memory_set_version(page, version);
}

void check_scrub(struct worker *worker, uint64_t page)
{
	uint64_t gpa = memory_gpa(page);
	uint32_t version;

	if (verify(worker, page, false, &version))
		return;
	version = version_after(version);
	page_write(at_address(gpa), gpa, version);
	memory_set_version(page, version);
}
