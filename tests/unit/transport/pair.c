/* SPDX-License-Identifier: MIT */
#include "pair.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

static void *accept_thread(void *arg)
{
	struct accepting *a = arg;

	a->ret = vmferry_accept(a->listener, a->deadline, &a->session);
	return NULL;
}

void accept_begin(struct accepting *a, struct vmferry_listener *listener, uint64_t deadline)
{
	*a = (struct accepting){.listener = listener, .deadline = deadline};
	cr_assert_eq(pthread_create(&a->thread, NULL, accept_thread, a), 0);
}

int accept_end(struct accepting *a)
{
	pthread_join(a->thread, NULL);
	return a->ret;
}

static struct vmferry_transport_options options_for(unsigned int lanes)
{
	return (struct vmferry_transport_options){.size = sizeof(struct vmferry_transport_options),
						  .lanes = lanes};
}

static void open_ends(struct vmferry_listener *listener,
		      const struct vmferry_transport_options *options,
		      struct vmferry_session **source, struct vmferry_session **destination)
{
	struct accepting a;
	int ret;

	accept_begin(&a, listener, PATIENT);
	ret = vmferry_connect(vmferry_listener_uri(listener), options, PATIENT, source);
	cr_assert_eq(ret, 0, "connect: %s", strerror(-ret));
	ret = accept_end(&a);
	cr_assert_eq(ret, 0, "accept: %s", strerror(-ret));
	*destination = a.session;
}

void pair_open_with(struct pair *pair, const struct vmferry_transport_options *options)
{
	int ret = vmferry_listen(LOOP, options, &pair->listener);

	cr_assert_eq(ret, 0, "listen: %s", strerror(-ret));
	open_ends(pair->listener, options, &pair->source, &pair->destination);
}

/* TCP also where there are RDMA devices. */
void pair_open(struct pair *pair, unsigned int lanes)
{
	struct vmferry_transport_options o = options_for(lanes);

	o.transport = VMFERRY_TRANSPORT_TCP;
	pair_open_with(pair, &o);
}

void pair_open_rdma(struct pair *pair, unsigned int lanes)
{
	struct vmferry_transport_options o = {
		.size = sizeof(o),
		.transport = VMFERRY_TRANSPORT_RDMA,
		.lanes = lanes,
		.insecure = true,
		.rails = {"10.99.0.1"},
		.rail_count = 1,
	};

	pair_open_with(pair, &o);
}

void pair_close(struct pair *pair)
{
	vmferry_session_close(&pair->source);
	vmferry_session_close(&pair->destination);
	vmferry_listener_close(&pair->listener);
	cr_assert_null(pair->source);
	cr_assert_null(pair->destination);
	cr_assert_null(pair->listener);
}

void expect_good_source(struct vmferry_listener *listener, unsigned int lanes)
{
	struct vmferry_transport_options o = options_for(lanes);
	struct vmferry_session *source = NULL;
	struct vmferry_session *destination = NULL;
	struct vmferry_message m;

	open_ends(listener, &o, &source, &destination);
	cr_assert_eq(vmferry_send(source, VMFERRY_CONTROL, 9, "x", 1, PATIENT), 0);
	cr_assert_eq(vmferry_recv(destination, &m, PATIENT), 0);
	cr_assert_eq(m.type, 9);
	vmferry_message_free(&m);
	vmferry_session_close(&source);
	vmferry_session_close(&destination);
}

void *pages_new(size_t bytes, int fill)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	cr_assert_neq(p, MAP_FAILED);
	memset(p, fill, bytes);
	return p;
}

void pages_free(void *pages, size_t bytes)
{
	munmap(pages, bytes);
}

uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

void fill_random(void *data, size_t bytes, uint64_t seed)
{
	uint8_t *p = data;

	for (size_t i = 0; i < bytes; i++)
		p[i] = (uint8_t)(next_random(&seed) >> 32);
}

void write_all(struct vmferry_session *s, unsigned int lane, const struct vmferry_write *writes,
	       unsigned int count)
{
	unsigned int done = 0;

	while (done < count) {
		int n = vmferry_lane_write(s, lane, writes + done, count - done, PATIENT);

		cr_assert_gt(n, 0, "write: %s", strerror(-n));
		done += (unsigned int)n;
	}
}
