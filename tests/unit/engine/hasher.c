/* SPDX-License-Identifier: MIT */
/* The destination's hasher over a real session of two ends in this process. */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "migrator/engine/hasher.h"
#include "migrator/engine/messages.h"

#define PAGE	 VMFERRY_PAGE_SIZE
#define PAGES	 200u
#define PATIENT	 (vmferry_now() + 10000000000ull)
#define IN_A_BIT (vmferry_now() + 100000000ull)

static struct vmferry_region region;
static struct vmferry_vm vm;
static struct vmferry_listener *listener;
static struct vmferry_session *source, *destination;
static struct hasher *hasher;

static void *connect_source(void *arg)
{
	struct vmferry_transport_options o = {.size = sizeof(o), .lanes = 1};

	(void)arg;
	vmferry_connect(vmferry_listener_uri(listener), &o, PATIENT, &source);
	return NULL;
}

static void setup(void)
{
	struct vmferry_transport_options o = {.size = sizeof(o)};
	pthread_t thread;

	region = (struct vmferry_region){.size = PAGES * PAGE};
	region.fd = memfd_create("hasher", MFD_CLOEXEC);
	cr_assert_eq(ftruncate(region.fd, (off_t)region.size), 0);
	region.base = mmap(NULL, region.size, PROT_READ | PROT_WRITE, MAP_SHARED, region.fd, 0);
	cr_assert_neq(region.base, MAP_FAILED);
	vm = (struct vmferry_vm){.size = sizeof(vm), .regions = &region, .region_count = 1};
	cr_assert_eq(vmferry_listen("tcp:127.0.0.1:0", &o, &listener), 0);
	cr_assert_eq(pthread_create(&thread, NULL, connect_source, NULL), 0);
	cr_assert_eq(vmferry_accept(listener, PATIENT, &destination), 0);
	pthread_join(thread, NULL);
	cr_assert_not_null(source);
	cr_assert_eq(hasher_new(destination, &vm, &hasher), 0);
}

static void teardown(void)
{
	vmferry_session_shutdown(destination);
	hasher_free(&hasher);
	vmferry_session_close(&source);
	vmferry_session_close(&destination);
	vmferry_listener_close(&listener);
	munmap(region.base, region.size);
	close(region.fd);
}

TestSuite(hasher, .init = setup, .fini = teardown, .timeout = 30);

static uint8_t *page(uint64_t n)
{
	return (uint8_t *)region.base + n * PAGE;
}

static void assert_page(uint64_t n)
{
	cr_assert_eq(hasher_table(hasher)->of_page[n], XXH3_64bits(page(n), PAGE), "page %llu",
		     (unsigned long long)n);
}

static void hash_behind(uint32_t fence)
{
	struct vmferry_message m;

	cr_assert_eq(hasher_start(hasher, fence), 0);
	cr_assert_eq(vmferry_lane_fence(source, 0, fence, PATIENT), 0);
	cr_assert_eq(vmferry_recv(source, &m, PATIENT), 0);
	cr_assert_eq(m.type, MESSAGE_HASHED);
	vmferry_message_free(&m);
}

static int name(uint32_t in_region, uint64_t word, uint64_t bits)
{
	struct vmferry_message m = {.type = MESSAGE_RESENT};
	struct vmferry_blob *blob = NULL;
	int r;

	cr_assert_eq(vmferry_blob_new(&blob), 0);
	cr_assert_eq(words_pack(in_region, word, &bits, 1, blob), 0);
	m.length = vmferry_blob_size(blob);
	m.data = (void *)vmferry_blob_data(blob);
	r = hasher_resent(hasher, &m);
	vmferry_blob_free(&blob);
	return r;
}

Test(hasher, rounds__keep_the_table_up_to_date_by_what_is_named)
{
	memset(page(3), 1, PAGE);
	hash_behind(1);
	for (uint64_t p = 0; p < PAGES; p++)
		assert_page(p);

	memset(page(5), 2, PAGE);
	memset(page(70), 2, PAGE);
	cr_assert_eq(name(0, 0, 1ull << 5), 0);
	hash_behind(2);
	assert_page(5);
	cr_assert_neq(hasher_table(hasher)->of_page[70], XXH3_64bits(page(70), PAGE));

	memset(page(5), 3, PAGE);
	cr_assert_eq(name(0, 1, 1ull << 6), 0);
	hash_behind(3);
	assert_page(70);
	/* Named in the round before, not in this one. */
	cr_assert_neq(hasher_table(hasher)->of_page[5], XXH3_64bits(page(5), PAGE));

	cr_assert_eq(name(0, 0, 1ull << 5), 0);
	cr_assert_eq(hasher_finish(hasher), 0);
	for (uint64_t p = 0; p < PAGES; p++)
		assert_page(p);
}

Test(hasher, started_while_it_works__eproto)
{
	cr_assert_eq(hasher_start(hasher, 1), 0);
	cr_assert_eq(hasher_start(hasher, 2), -EPROTO);
	cr_assert_eq(vmferry_lane_fence(source, 0, 1, PATIENT), 0);
	cr_assert_eq(hasher_finish(hasher), 0);
}

Test(hasher, waits_for_its_fence)
{
	struct vmferry_message m;

	cr_assert_eq(hasher_start(hasher, 1), 0);
	cr_assert_eq(vmferry_recv(source, &m, IN_A_BIT), -ETIMEDOUT);
	cr_assert_eq(vmferry_lane_fence(source, 0, 1, PATIENT), 0);
	cr_assert_eq(vmferry_recv(source, &m, PATIENT), 0);
	vmferry_message_free(&m);
}

Test(hasher, named_outside_of_the_guest__eproto_and_bits_past_the_end_are_dropped)
{
	cr_assert_eq(name(1, 0, 1), -EPROTO);
	cr_assert_eq(name(0, 4, 1), -EPROTO);
	cr_assert_eq(name(0, UINT64_MAX, 1), -EPROTO);
	hash_behind(1);
	/*
	 * 200 pages end in the middle of the fourth word: a sanitizer would see a read behind them.
	 */
	cr_assert_eq(name(0, 3, ~0ull), 0);
	cr_assert_eq(hasher_finish(hasher), 0);
	assert_page(199);
}

Test(hasher, never_started__eproto)
{
	cr_assert_eq(hasher_finish(hasher), -EPROTO);
}

Test(hasher, freed_while_it_waits__ends)
{
	cr_assert_eq(hasher_start(hasher, 1), 0);
}
