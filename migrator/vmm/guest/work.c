/* SPDX-License-Identifier: MIT */
/*
 * The loop of each vCPU. It does what is due by the TSC, page by page, and sleeps until the next
 * timer interrupt when nothing is; the beats come from the interrupt itself, so that nothing here
 * delays them.
 */
#include "abi.h"
#include "memory.h"
#include "page.h"
#include "text.h"
#include "work.h"

#define TICKS_LEAST_HZ	  500 /* of a vCPU that has work: it sleeps no longer than 2 ms */
#define WINDOW_PER_SECOND 250 /* pauses up to 4 ms are made up for */
#define RANDOM_MULTIPLIER 0x2545f4914f6cdd1dull
#define RANDOM_SEED	  0x9e3779b97f4a7c15ull

struct report {
	uint64_t started;
	uint64_t rewritten, scrubbed;
};

static struct worker workers[GUEST_VCPUS_MAX];
static _Atomic uint32_t arrivals;

uint64_t worker_random(struct worker *worker)
{
	uint64_t x = worker->random;

	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	worker->random = x;
	return x * RANDOM_MULTIPLIER;
}

/* 0 to count - 1, uniform. */
static uint64_t random_below(struct worker *worker, uint64_t count)
{
	return (uint64_t)(((unsigned __int128)worker_random(worker) * count) >> 64);
}

static uint64_t choose(struct worker *worker)
{
	uint64_t count = worker->hot_count;
	uint64_t hot = (count + 9) / 10;

	switch (options.pattern) {
	case PATTERN_SEQUENTIAL:
		worker->cursor = worker->cursor + 1 < count ? worker->cursor + 1 : 0;
		return worker->cursor;
	case PATTERN_HOTCOLD:
		if (count == hot || random_below(worker, 10) != 0)
			return random_below(worker, hot);
		return hot + random_below(worker, count - hot);
	default:
		return random_below(worker, count);
	}
}

static uint64_t working_pages(void)
{
	uint64_t wanted = options.working_set / PAGE_BYTES;

	return wanted < memory_pages() ? wanted : memory_pages();
}

static void divide(uint64_t first, uint64_t count, uint32_t index, uint64_t *from, uint64_t *pages)
{
	uint64_t start = count * index / options.vcpus;
	uint64_t end = count * (index + 1) / options.vcpus;

	*from = first + start;
	*pages = end - start;
}

static uint64_t pages_a_second(uint64_t bytes)
{
	return (bytes + PAGE_BYTES - 1) / PAGE_BYTES;
}

static void setup(struct worker *worker, struct cpu *cpu)
{
	uint64_t working = working_pages();
	uint64_t window = clocks.tsc_hz / WINDOW_PER_SECOND;

	worker->cpu = cpu;
	worker->random = RANDOM_SEED * (cpu->index + 1);
	divide(0, working, cpu->index, &worker->hot_first, &worker->hot_count);
	divide(working, memory_pages() - working, cpu->index, &worker->cold_first,
	       &worker->cold_count);
	worker->scrubs =
		pace_new(clocks.tsc_hz, pages_a_second(options.scrub), options.vcpus, window);
	if (worker->hot_count)
		worker->rewrites = pace_new(clocks.tsc_hz, pages_a_second(options.rate),
					    options.vcpus, window);
}

static void fill(uint64_t first, uint64_t count)
{
	for (uint64_t page = first; page < first + count; page++) {
		uint64_t gpa = memory_gpa(page);

		page_write(at_address(gpa), gpa, 1);
		memory_set_version(page, 1);
	}
}

/* Returns when every vCPU has come here @times times. */
static void meet(uint32_t times)
{
	atomic_fetch_add(&arrivals, 1);
	while (atomic_load(&arrivals) < times * options.vcpus)
		cpu_relax();
}

static void say_ready(uint64_t ticks)
{
	char status = GUEST_STATUS_READY;
	struct text text = {.length = 0};

	text_add(&text, "guest: filled ");
	text_add_decimal(&text, memory_pages() * PAGE_BYTES >> 10);
	text_add(&text, " KiB from ");
	text_add_hex(&text, memory_pages() ? memory_gpa(0) : 0);
	text_add(&text, " in ");
	text_add_decimal(&text, ticks / (clocks.tsc_hz / 1000000));
	text_add(&text, " us, working set ");
	text_add_decimal(&text, working_pages() * PAGE_BYTES >> 10);
	text_add(&text, " KiB, ready");
	text_say(&text);
	gate_out(GUEST_PORT_STATUS, &status, 1);
}

static bool idle(void)
{
	return options.rate == 0 && options.scrub == 0 && options.report_seconds == 0;
}

static void start_timer(struct cpu *cpu)
{
	uint32_t beats = (uint32_t)options.heartbeat_hz;
	uint32_t every = 1;

	if (beats < TICKS_LEAST_HZ)
		every = (TICKS_LEAST_HZ + beats - 1) / beats;
	machine_start_timer(cpu, beats * every, every);
}

static void say_report(struct report *report, uint64_t now)
{
	uint64_t rewritten = 0, scrubbed = 0;
	struct text text = {.length = 0};

	for (uint32_t i = 0; i < options.vcpus; i++) {
		rewritten += atomic_load_explicit(&workers[i].rewritten, memory_order_relaxed);
		scrubbed += atomic_load_explicit(&workers[i].scrubbed, memory_order_relaxed);
	}
	text_add(&text, "guest: rewrote ");
	text_add_decimal(&text, rewritten - report->rewritten);
	text_add(&text, " pages and verified ");
	text_add_decimal(&text, scrubbed - report->scrubbed);
	text_add(&text, " in ");
	text_add_decimal(&text, (now - report->started) / (clocks.tsc_hz / 1000000));
	text_add(&text, " us");
	text_say(&text);
	*report = (struct report){now, rewritten, scrubbed};
}

_Noreturn static void loop(struct worker *worker)
{
	struct report report = {.started = read_tsc()};
	uint64_t report_ticks = worker->cpu->index ? 0 : options.report_seconds * clocks.tsc_hz;

	for (;;) {
		uint64_t now = read_tsc();
		bool busy = false;

		if (pace_due(&worker->rewrites, now)) {
			check_rewrite(worker, worker->hot_first + choose(worker));
			atomic_fetch_add_explicit(&worker->rewritten, 1, memory_order_relaxed);
			busy = true;
		}
		if (pace_due(&worker->scrubs, now))
			busy |= scrub_step(worker);
		if (report_ticks && now - report.started >= report_ticks)
			say_report(&report, now);
		if (!busy)
			gate_sleep();
	}
}

void work(struct cpu *cpu)
{
	struct worker *worker = &workers[cpu->index];
	uint64_t started = read_tsc();

	setup(worker, cpu);
	fill(worker->hot_first, worker->hot_count);
	fill(worker->cold_first, worker->cold_count);
	meet(1);
	if (cpu->index == 0)
		say_ready(read_tsc() - started);
	meet(2);
	if (idle())
		machine_idle(cpu, (uint32_t)options.heartbeat_hz);
	start_timer(cpu);
	loop(worker);
}
