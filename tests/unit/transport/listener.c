/* SPDX-License-Identifier: MIT */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pair.h"
#include "raw.h"
#include "support/fake_clock.h"

Test(listener, port_taken__eaddrinuse, .timeout = 120)
{
	struct vmferry_listener *first = NULL;
	struct vmferry_listener *second = NULL;

	log_keep();
	cr_assert_eq(vmferry_listen(LOOP, NULL, &first), 0);
	cr_expect_eq(vmferry_listen(vmferry_listener_uri(first), NULL, &second), -EADDRINUSE);
	cr_expect(log_has("the port is taken"));
	cr_expect(log_has(vmferry_listener_uri(first)));
	vmferry_listener_close(&first);
}

Test(listener, nobody_there__econnrefused, .timeout = 120)
{
	struct vmferry_listener *listener = NULL;
	struct vmferry_session *session = NULL;
	char uri[64];

	log_keep();
	cr_assert_eq(vmferry_listen(LOOP, NULL, &listener), 0);
	strcpy(uri, vmferry_listener_uri(listener));
	vmferry_listener_close(&listener);
	cr_expect_eq(vmferry_connect(uri, NULL, PATIENT, &session), -ECONNREFUSED);
	cr_expect(log_has("start the destination first"));
	cr_expect(log_has(uri));
}

Test(listener, port_zero__connect_einval, .timeout = 120)
{
	struct vmferry_session *session = NULL;

	cr_expect_eq(vmferry_connect(LOOP, NULL, PATIENT, &session), -EINVAL);
}

Test(listener, name__session, .timeout = 120)
{
	struct vmferry_listener *listener = NULL;

	cr_assert_eq(vmferry_listen("tcp:localhost:0", NULL, &listener), 0);
	expect_good_source(listener, 1);
	vmferry_listener_close(&listener);
}

Test(listener, ipv6__session, .timeout = 120)
{
	struct vmferry_listener *listener = NULL;

	cr_assert_eq(vmferry_listen("tcp:[::1]:0", NULL, &listener), 0);
	cr_expect_eq(strncmp(vmferry_listener_uri(listener), "tcp:[::1]:", 10), 0);
	expect_good_source(listener, 2);
	vmferry_listener_close(&listener);
}

Test(listener, nobody_comes__etimedout, .timeout = 120)
{
	struct vmferry_listener *listener = NULL;
	struct vmferry_session *session = NULL;
	uint64_t begun;

	cr_assert_eq(vmferry_listen(LOOP, NULL, &listener), 0);
	cr_expect_eq(vmferry_accept(listener, 0, &session), -ETIMEDOUT);
	fake_clock_stop();
	fake_clock_rush(true);
	begun = vmferry_now();
	cr_expect_eq(vmferry_accept(listener, begun + 50 * MS, &session), -ETIMEDOUT);
	cr_expect_eq(vmferry_now() - begun, 50 * MS);
	cr_expect_null(session);
	vmferry_listener_close(&listener);
}

/* So that the next descriptor cannot be had. */
static void allow_no_more_descriptors(struct rlimit *before)
{
	int next = dup(STDIN_FILENO);
	struct rlimit limit;

	cr_assert_geq(next, 0);
	close(next);
	cr_assert_eq(getrlimit(RLIMIT_NOFILE, before), 0);
	limit = *before;
	limit.rlim_cur = (rlim_t)next;
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

static pid_t connect_elsewhere(const struct vmferry_listener *listener, const struct rlimit *limit)
{
	pid_t pid = fork();

	if (pid == 0) {
		struct vmferry_transport_options o = {.size = sizeof(o), .lanes = 1};
		struct vmferry_session *session = NULL;

		setrlimit(RLIMIT_NOFILE, limit);
		_exit(vmferry_connect(vmferry_listener_uri(listener), &o, PATIENT, &session) == 0
			      ? EXIT_SUCCESS
			      : EXIT_FAILURE);
	}
	return pid;
}

Test(listener, no_descriptors_left__goes_on_when_there_are, .timeout = 120)
{
	struct vmferry_listener *listener = NULL;
	struct accepting a;
	struct rlimit before;
	int status = -1;
	pid_t pid;

	log_keep();
	cr_assert_eq(vmferry_listen(LOOP, NULL, &listener), 0);
	accept_begin(&a, listener, PATIENT);
	allow_no_more_descriptors(&before);
	pid = connect_elsewhere(listener, &before);
	cr_expect(log_will_have("cannot accept"));
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
	cr_expect_eq(accept_end(&a), 0);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	cr_expect_eq(status, 0);
	vmferry_session_close(&a.session);
	vmferry_listener_close(&listener);
}

static struct vmferry_listener *waited_at;
static _Atomic unsigned int waits;

static void *accept_thread(void *arg)
{
	struct vmferry_session *session = NULL;

	fake_clock_watch(&waits);
	*(int *)arg = vmferry_accept(waited_at, PATIENT, &session);
	return NULL;
}

Test(listener, shutdown__ecanceled_for_ever, .timeout = 120)
{
	struct vmferry_listener *listener = NULL;
	struct vmferry_session *session = NULL;
	pthread_t thread;
	int ret = 0;

	cr_assert_eq(vmferry_listen(LOOP, NULL, &listener), 0);
	waited_at = listener;
	fake_clock_stop();
	cr_assert_eq(pthread_create(&thread, NULL, accept_thread, &ret), 0);
	cr_assert(fake_clock_waits(&waits));
	vmferry_listener_shutdown(listener);
	pthread_join(thread, NULL);
	cr_expect_eq(ret, -ECANCELED);
	cr_expect_eq(vmferry_accept(listener, PATIENT, &session), -ECANCELED);
	vmferry_listener_shutdown(listener);
	vmferry_listener_close(&listener);
}

Test(listener, connection_comes__fd_readable, .timeout = 120)
{
	struct vmferry_listener *listener = NULL;
	struct pollfd p = {.events = POLLIN};
	int fd;

	cr_assert_eq(vmferry_listen(LOOP, NULL, &listener), 0);
	p.fd = vmferry_listener_fd(listener);
	cr_expect_eq(poll(&p, 1, 0), 0);
	fd = raw_connect(listener);
	cr_expect_eq(poll(&p, 1, 20000), 1);
	close(fd);
	vmferry_listener_close(&listener);
}

Test(listener, options__checked)
{
	struct vmferry_transport_options o = {.size = sizeof(o)};
	struct vmferry_listener *listener = NULL;

	/* No device has a loopback address. */
	o.transport = VMFERRY_TRANSPORT_RDMA;
	o.rails[0] = "127.0.0.1";
	o.rail_count = 1;
	cr_expect_eq(vmferry_listen(LOOP, &o, &listener), -ENODEV);
	o.rails[0] = "somewhere.example";
	cr_expect_eq(vmferry_listen(LOOP, &o, &listener), -EINVAL);
	o.rail_count = VMFERRY_RAILS_MAX + 1;
	cr_expect_eq(vmferry_listen(LOOP, &o, &listener), -EINVAL);
	o = (struct vmferry_transport_options){.size = sizeof(o), .transport = 77};
	cr_expect_eq(vmferry_listen(LOOP, &o, &listener), -EINVAL);
	o = (struct vmferry_transport_options){.size = sizeof(o), .write_bytes = 5000};
	cr_expect_eq(vmferry_listen(LOOP, &o, &listener), -EINVAL);
	o = (struct vmferry_transport_options){.size = sizeof(o), .window_bytes = 4096};
	cr_expect_eq(vmferry_listen(LOOP, &o, &listener), -EINVAL);
	o = (struct vmferry_transport_options){.size = sizeof(o), .tos = 256};
	cr_expect_eq(vmferry_listen(LOOP, &o, &listener), -EINVAL);
	o = (struct vmferry_transport_options){.size = sizeof(o), .lanes = VMFERRY_LANES_MAX + 1};
	cr_expect_eq(vmferry_listen(LOOP, &o, &listener), -EINVAL);
	o = (struct vmferry_transport_options){.size = 3};
	cr_expect_eq(vmferry_listen(LOOP, &o, &listener), -EINVAL);
	cr_expect_null(listener);
}

static unsigned int agreed(unsigned int most, unsigned int wish)
{
	struct vmferry_transport_options at = {.size = sizeof(at), .lanes = most};
	struct vmferry_transport_options from = {.size = sizeof(from), .lanes = wish};
	struct vmferry_listener *listener = NULL;
	struct vmferry_session *source = NULL;
	struct accepting a;
	unsigned int lanes;

	cr_assert_eq(vmferry_listen(LOOP, &at, &listener), 0);
	accept_begin(&a, listener, PATIENT);
	cr_assert_eq(vmferry_connect(vmferry_listener_uri(listener), &from, PATIENT, &source), 0);
	cr_assert_eq(accept_end(&a), 0);
	lanes = vmferry_session_lanes(source);
	cr_expect_eq(vmferry_session_lanes(a.session), lanes);
	cr_expect_str_eq(vmferry_session_transport(source), "tcp");
	cr_expect_eq(strncmp(vmferry_session_peer(a.session), "127.0.0.1:", 10), 0);
	cr_expect_eq(vmferry_lane_fd(source, lanes), -ENOENT);
	vmferry_session_close(&source);
	vmferry_session_close(&a.session);
	vmferry_listener_close(&listener);
	return lanes;
}

Test(listener, lanes__the_smaller_of_both, .timeout = 120)
{
	unsigned int useful = agreed(0, 0);

	cr_expect(useful >= 1 && useful <= 4, "%u", useful);
	cr_expect_eq(agreed(0, 3), 3);
	cr_expect_eq(agreed(2, 3), 2);
	cr_expect_eq(agreed(8, 3), 3);
	cr_expect_eq(agreed(0, VMFERRY_LANES_MAX), VMFERRY_LANES_MAX);
	cr_expect_eq(agreed(4, VMFERRY_LANES_NONE), 0);
	cr_expect_eq(agreed(VMFERRY_LANES_NONE, 4), 0);
}
