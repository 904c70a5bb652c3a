/* SPDX-License-Identifier: MIT */
/*
 * A whole session, from listening to closing, once for every call into the device's libraries that may fail. Whichever it is: an error comes
 * back in time or the session works all the same, nothing is left behind, and the next session works.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "../pair.h"
#include "fake/fake.h"
#include "rails.h"

#define SIZE	  (1ull << 20)
#define ADDRESS	  (1ull << 32)
#define SOON	  (vmferry_now() + 3000 * MS)
#define SITES_MIN 20 /* fewer would mean that they are not counted */

static uint8_t *from;
static uint8_t *to;

TestSuite(sites, .timeout = 240);

static int use(struct vmferry_session *source, struct vmferry_session *destination,
	       struct vmferry_memory **local, struct vmferry_memory **remote)
{
	struct vmferry_message m;
	struct vmferry_write w;
	int ret = vmferry_register(source, from, SIZE, 0, VMFERRY_ACCESS_LOCAL, local);

	if (ret == 0)
		ret = vmferry_register(destination, to, SIZE, ADDRESS, VMFERRY_ACCESS_REMOTE_WRITE,
				       remote);
	if (ret == 0)
		ret = vmferry_prepare(*remote, 0, SIZE);
	if (ret == 0)
		ret = vmferry_send(destination, VMFERRY_MAILBOX, 1, "go", 2, SOON);
	if (ret == 0)
		ret = vmferry_recv(source, &m, SOON);
	if (ret < 0)
		return ret;
	vmferry_message_free(&m);
	w = (struct vmferry_write){*local, 0, ADDRESS, SIZE};
	ret = vmferry_lane_write(source, 0, &w, 1, SOON);
	for (unsigned int i = 0; ret >= 0 && i < vmferry_session_lanes(source); i++)
		ret = vmferry_lane_fence(source, i, 1, SOON);
	return ret < 0 ? ret : vmferry_fence_wait(destination, 1, SOON);
}

static int open_and_use(struct vmferry_listener *listener,
			const struct vmferry_transport_options *options)
{
	struct vmferry_session *source = NULL;
	struct vmferry_memory *local = NULL, *remote = NULL;
	struct accepting a;
	int ret, accepted;

	accept_begin(&a, listener, SOON);
	ret = vmferry_connect(vmferry_listener_uri(listener), options, SOON, &source);
	if (ret < 0)
		vmferry_listener_shutdown(listener);
	accepted = accept_end(&a);
	if (ret == 0)
		ret = accepted;
	if (ret == 0)
		ret = use(source, a.session, &local, &remote);
	vmferry_deregister(&local);
	vmferry_deregister(&remote);
	vmferry_session_close(&source);
	vmferry_session_close(&a.session);
	return ret;
}

/* 0 if all of it worked, and then the bytes are there. */
static int scene(void)
{
	struct vmferry_transport_options o = rails_options(2);
	struct vmferry_listener *listener = NULL;
	int ret;

	o.lanes = 2;
	memset(to, 0, SIZE);
	ret = vmferry_listen(LOOP, &o, &listener);
	if (ret == 0)
		ret = open_and_use(listener, &o);
	vmferry_listener_close(&listener);
	cr_expect_not(fake_leaks(), "something was left behind");
	cr_expect(ret < 0 || memcmp(from, to, SIZE) == 0);
	return ret;
}

static void fail_each(int error)
{
	unsigned int sites, failed = 0;

	from = pages_new(SIZE, 0);
	to = pages_new(SIZE, 0);
	fill_random(from, SIZE, 9);
	cr_assert_eq(scene(), 0);
	sites = fake_calls();
	cr_assert_gt(sites, SITES_MIN);
	for (unsigned int i = 1; i <= sites; i++) {
		uint64_t begun = vmferry_now();
		int ret;

		fake_reset();
		fake_fail_call(i, error);
		ret = scene();
		failed += ret < 0;
		cr_expect_lt(vmferry_now() - begun, 8000 * MS,
			     "call %u, function %d, took too long", i, (int)fake_failed());
	}
	cr_expect_gt(failed, SITES_MIN, "hardly any of the %u failures was noticed", sites);
	fake_reset();
	cr_expect_eq(scene(), 0);
	pages_free(from, SIZE);
	pages_free(to, SIZE);
}

Test(sites, out_of_memory_at_each__an_error_in_time_and_nothing_left)
{
	fail_each(ENOMEM);
}

Test(sites, refused_at_each__an_error_in_time_and_nothing_left)
{
	fail_each(EINVAL);
}
