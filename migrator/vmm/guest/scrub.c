/* SPDX-License-Identifier: MIT */
/*
 * Passes over all filled memory, each vCPU over its own pages. A pass ends when the last vCPU is
 * through; the others wait.
 */
#include "abi.h"
#include "work.h"

static _Atomic uint32_t pass, unfinished;
static uint32_t worker_count;
static uint64_t faults_before; /* the pass; touched only by who ends it */

void scrub_setup(uint32_t workers)
{
	worker_count = workers;
	atomic_store(&unfinished, workers);
}

static void end_pass(void)
{
	char status = GUEST_STATUS_SCRUB;
	uint64_t faults = check_faults();

	if (faults == faults_before)
		gate_out(GUEST_PORT_STATUS, &status, 1);
	faults_before = faults;
	atomic_store(&unfinished, worker_count);
	atomic_fetch_add(&pass, 1);
}

bool scrub_step(struct worker *worker)
{
	uint64_t count = worker->hot_count + worker->cold_count;
	uint64_t at = worker->scrub_at;

	if (worker->pass_done == atomic_load(&pass) + 1)
		return false;
	if (at < count) {
		check_scrub(worker, at < worker->hot_count
					    ? worker->hot_first + at
					    : worker->cold_first + at - worker->hot_count);
		atomic_fetch_add_explicit(&worker->scrubbed, 1, memory_order_relaxed);
		worker->scrub_at = at + 1;
		return true;
	}
	worker->scrub_at = 0;
	worker->pass_done++;
	if (atomic_fetch_sub(&unfinished, 1) == 1)
		end_pass();
	return true;
}
