/* SPDX-License-Identifier: MIT */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "pair.h"
#include "raw.h"

Test(listener, port_taken__eaddrinuse, .timeout = 10)
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

Test(listener, nobody_there__econnrefused, .timeout = 10)
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

Test(listener, port_zero__connect_einval, .timeout = 10)
{
	struct vmferry_session *session = NULL;

	cr_expect_eq(vmferry_connect(LOOP, NULL, PATIENT, &session), -EINVAL);
}

Test(listener, name__session, .timeout = 10)
{
	struct vmferry_listener *listener = NULL;

	cr_assert_eq(vmferry_listen("tcp:localhost:0", NULL, &listener), 0);
	expect_good_source(listener, 1);
	vmferry_listener_close(&listener);
}

Test(listener, ipv6__session, .timeout = 10)
{
	struct vmferry_listener *listener = NULL;

	cr_assert_eq(vmferry_listen("tcp:[::1]:0", NULL, &listener), 0);
	cr_expect_eq(strncmp(vmferry_listener_uri(listener), "tcp:[::1]:", 10), 0);
	expect_good_source(listener, 2);
	vmferry_listener_close(&listener);
}

Test(listener, nobody_comes__etimedout, .timeout = 10)
{
	struct vmferry_listener *listener = NULL;
	struct vmferry_session *session = NULL;
	uint64_t begun;

	cr_assert_eq(vmferry_listen(LOOP, NULL, &listener), 0);
	cr_expect_eq(vmferry_accept(listener, 0, &session), -ETIMEDOUT);
	begun = vmferry_now();
	cr_expect_eq(vmferry_accept(listener, begun + 50 * MS, &session), -ETIMEDOUT);
	cr_expect_geq(vmferry_now() - begun, 50 * MS);
	cr_expect_null(session);
	vmferry_listener_close(&listener);
}

Test(listener, shutdown__ecanceled_for_ever, .timeout = 10)
{
	struct vmferry_listener *listener = NULL;
	struct vmferry_session *session = NULL;
	struct accepting a;

	cr_assert_eq(vmferry_listen(LOOP, NULL, &listener), 0);
	accept_begin(&a, listener, PATIENT);
	usleep(20000);
	vmferry_listener_shutdown(listener);
	cr_expect_eq(accept_end(&a), -ECANCELED);
	cr_expect_eq(vmferry_accept(listener, PATIENT, &session), -ECANCELED);
	vmferry_listener_shutdown(listener);
	vmferry_listener_close(&listener);
}

Test(listener, stranger_comes__fd_readable, .timeout = 10)
{
	struct vmferry_listener *listener = NULL;
	struct pollfd p = {.events = POLLIN};
	int fd;

	cr_assert_eq(vmferry_listen(LOOP, NULL, &listener), 0);
	p.fd = vmferry_listener_fd(listener);
	cr_expect_eq(poll(&p, 1, 0), 0);
	fd = raw_connect(listener);
	cr_expect_eq(poll(&p, 1, 1000), 1);
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

Test(listener, lanes__the_smaller_of_both, .timeout = 20)
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
