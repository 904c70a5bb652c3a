/* SPDX-License-Identifier: MIT */
#include "half.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fake/fake.h"

static void detach(struct vmferry_session *session)
{
	struct rdma_session *r = rdma_session_of(session);

	rdma_registrar_free(r);
	rdma_keys_free(r);
	rdma_rails_free(r);
	free(r);
	session->kind = NULL;
}

static void wake(struct vmferry_session *session)
{
	rdma_keys_wake(rdma_session_of(session));
}

static const struct transport_ops half_ops = {
	.name = "half",
	.detach = detach,
	.register_memory = rdma_memory_register,
	.deregister_memory = rdma_memory_deregister,
	.prepare = rdma_memory_prepare,
	.discard = rdma_memory_discard,
	.registration_stats = rdma_registration_stats,
	.wake = wake,
};

bool half_on_demand;

static void open_rails(struct half *half)
{
	struct ibv_device **list = ibv_get_device_list(NULL);
	struct rdma_rail *rail;

	cr_assert_not_null(list);
	for (unsigned int i = 0; i < half->rails; i++) {
		half->contexts[i] = ibv_open_device(list[i]);
		cr_assert_not_null(half->contexts[i]);
		cr_assert_eq(rdma_rail_get(half->rdma, i, half->contexts[i], 1, &rail), 0);
	}
	ibv_free_device_list(list);
}

void half_open(struct half *half, bool is_source, unsigned int rails)
{
	struct address peer = {.length = 0};
	int fds[2];

	*half = (struct half){.rails = rails};
	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
	cr_assert_eq(session_new(&half_ops, is_source, fds[0], &peer, &half->session), 0);
	channel_init(&half->peer, fds[1]);
	half->peer.type_max = CHANNEL_TYPE_MAX;
	half->rdma = calloc(1, sizeof(*half->rdma));
	cr_assert_not_null(half->rdma);
	half->rdma->session = half->session;
	half->rdma->addresses.rail_count = rails;
	half->rdma->options.odp = half_on_demand;
	half->session->kind = half->rdma;
	half->session->control.type_max = CHANNEL_TYPE_MAX;
	open_rails(half);
	cr_assert_eq(rdma_registrar_new(half->rdma), 0);
	if (is_source)
		cr_assert_eq(rdma_keys_new(half->rdma), 0);
}

void half_close(struct half *half)
{
	vmferry_session_close(&half->session);
	channel_close(&half->peer);
	for (unsigned int i = 0; i < half->rails; i++)
		cr_assert_eq(ibv_close_device(half->contexts[i]), 0);
	cr_assert_not(fake_leaks());
}

bool half_hear(struct half *half, struct vmferry_message *message, unsigned int ms)
{
	return channel_recv(&half->peer, message, vmferry_now() + ms * MS) == 0;
}

bool half_hears(struct half *half, uint32_t type)
{
	struct vmferry_message m;
	bool same;

	if (!half_hear(half, &m, 5000))
		return false;
	same = m.type == type;
	vmferry_message_free(&m);
	return same;
}

int half_say(struct half *half, uint32_t type, const void *data, size_t length)
{
	struct vmferry_message m = {.type = type, .length = length, .data = (void *)data};

	return half->session->is_source ? rdma_keys_take(half->rdma, &m)
					: rdma_registrar_take(half->rdma, &m);
}

int half_error(const struct half *half)
{
	uint64_t deadline = vmferry_now() + 5000 * MS;

	while (session_error(half->session) == 0 && vmferry_now() < deadline)
		usleep(1000);
	return session_error(half->session);
}

uint8_t *untouched_new(uint64_t bytes)
{
	void *memory =
		mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	cr_assert_neq(memory, MAP_FAILED);
	/* Or one touch brings 2 MiB. */
	madvise(memory, bytes, MADV_NOHUGEPAGE);
	return memory;
}

uint64_t resident_bytes(const uint8_t *memory, uint64_t bytes)
{
	uint64_t pages = bytes / PAGE;
	unsigned char *there = malloc(pages);
	uint64_t resident = 0;

	cr_assert_eq(mincore((void *)memory, bytes, there), 0);
	for (uint64_t i = 0; i < pages; i++)
		resident += (there[i] & 1) * PAGE;
	free(there);
	return resident;
}
