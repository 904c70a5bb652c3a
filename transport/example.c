/* SPDX-License-Identifier: MIT */
/*
 * The transport layer alone: two processes, and no VM anywhere. One registers memory and waits; the
 * other writes into it, sets a fence, reads it back and compares. It is what a VMM with a migration
 * engine of its own has to do, and nothing else.
 *
 *   vmferry-example listen tcp:127.0.0.1:4444 [RAIL]
 *   vmferry-example connect tcp:127.0.0.1:4444 [RAIL]
 *
 * With RAIL, the address of an RDMA port, it goes over RDMA or not at all; without, over what there
 * is.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <vmferry/transport.h>

#define BYTES (16ull << 20)
/* Both sides speak of addresses in the session, here as if of a guest's memory at 4 GiB. */
#define ADDRESS 0x100000000ull
#define CHUNK	(64u << 10)
#define EPOCH	1
#define READY	1 /* types of our own messages */
#define PLACED	2

static uint64_t in_seconds(unsigned int seconds)
{
	return vmferry_now() + seconds * 1000000000ull;
}

static int failed(const char *what, int error)
{
	fprintf(stderr, "%s: %s\n", what, strerror(-error));
	return EXIT_FAILURE;
}

static void print_log(void *ctx, enum vmferry_log_level level, const char *line)
{
	(void)ctx;
	(void)level;
	fprintf(stderr, "%s\n", line);
}

/* Waits for one message without data. */
static int expect(struct vmferry_session *session, uint32_t type)
{
	struct vmferry_message message;
	int ret = vmferry_recv(session, &message, in_seconds(30));

	if (ret < 0)
		return ret;
	ret = message.type == type ? 0 : -EPROTO;
	vmferry_message_free(&message);
	return ret;
}

/* What the other side will check: a different value in each place. */
static void fill(uint64_t *words)
{
	for (uint64_t i = 0; i < BYTES / sizeof(*words); i++)
		words[i] = i * 0x9e3779b97f4a7c15ull + 1;
}

static bool is_filled(const uint64_t *words)
{
	for (uint64_t i = 0; i < BYTES / sizeof(*words); i++)
		if (words[i] != i * 0x9e3779b97f4a7c15ull + 1)
			return false;
	return true;
}

/*
 * The destination takes no part in the writes: it only says when they may begin, and looks when the
 * fence has come.
 */
static int serve(struct vmferry_session *session, void *base)
{
	struct vmferry_memory *memory;
	int ret =
		vmferry_register(session, base, BYTES, ADDRESS,
				 VMFERRY_ACCESS_REMOTE_WRITE | VMFERRY_ACCESS_REMOTE_READ, &memory);

	if (ret < 0)
		return failed("register", ret);
	vmferry_prepare(memory, 0, BYTES);
	ret = vmferry_send(session, VMFERRY_CONTROL, READY, NULL, 0, in_seconds(5));
	if (ret == 0)
		ret = vmferry_fence_wait(session, EPOCH, in_seconds(60));
	if (ret < 0) {
		failed("fence", ret);
	} else {
		printf("all placed: %s\n", is_filled(base) ? "as it should be" : "WRONG");
		ret = is_filled(base) ? 0 : -EIO;
		/* The source may still be reading: stay until it is done. */
		if (ret == 0)
			ret = expect(session, PLACED);
	}
	vmferry_deregister(&memory);
	return ret < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

static int listen_at(const char *uri, const struct vmferry_transport_options *options, void *base)
{
	struct vmferry_listener *listener;
	struct vmferry_session *session;
	int ret = vmferry_listen(uri, options, &listener);

	if (ret < 0)
		return failed("listen", ret);
	printf("listening at %s\n", vmferry_listener_uri(listener));
	fflush(stdout);
	ret = vmferry_accept(listener, in_seconds(60), &session);
	vmferry_listener_close(&listener);
	if (ret < 0)
		return failed("accept", ret);
	ret = serve(session, base);
	vmferry_session_close(&session);
	return ret;
}

/*
 * Pieces of memory to lanes by their address, so that a piece that is written again can never be
 * overtaken by its older self.
 */
static int write_all(struct vmferry_session *session, struct vmferry_memory *memory)
{
	unsigned int lanes = vmferry_session_lanes(session);

	for (uint64_t offset = 0; offset < BYTES; offset += CHUNK) {
		struct vmferry_write write = {memory, offset, ADDRESS + offset, CHUNK};
		unsigned int lane = (unsigned int)(offset / CHUNK) % lanes;
		int ret = vmferry_lane_write(session, lane, &write, 1, in_seconds(10));

		if (ret < 0)
			return ret;
	}
	return 0;
}

static int fence_all(struct vmferry_session *session)
{
	unsigned int lanes = vmferry_session_lanes(session);
	int ret = 0;

	for (unsigned int i = 0; ret == 0 && i < lanes; i++)
		ret = vmferry_lane_fence(session, i, EPOCH, in_seconds(10));
	for (unsigned int i = 0; ret == 0 && i < lanes; i++)
		ret = vmferry_lane_fence_wait(session, i, EPOCH, in_seconds(30));
	return ret;
}

static int push(struct vmferry_session *session, struct vmferry_memory *memory, void *base)
{
	uint64_t begin = vmferry_now(), ns;
	int ret = write_all(session, memory);

	if (ret == 0)
		ret = fence_all(session);
	if (ret < 0)
		return failed("write", ret);
	ns = vmferry_now() - begin;
	printf("wrote %llu MiB over %s (%s), %u lanes: %.1f MB/s\n", BYTES >> 20,
	       vmferry_session_transport(session), vmferry_session_transport_reason(session),
	       vmferry_session_lanes(session), (double)BYTES * 1e3 / (double)ns);
	memset(base, 0, BYTES);
	ret = vmferry_lane_read(session, 0, memory, 0, ADDRESS, BYTES, in_seconds(30));
	if (ret < 0)
		return failed("read", ret);
	printf("read back: %s\n", is_filled(base) ? "as it was" : "WRONG");
	ret = vmferry_send(session, VMFERRY_CONTROL, PLACED, NULL, 0, in_seconds(5));
	return ret == 0 && is_filled(base) ? EXIT_SUCCESS : EXIT_FAILURE;
}

static int connect_to(const char *uri, const struct vmferry_transport_options *options, void *base)
{
	struct vmferry_session *session;
	struct vmferry_memory *memory;
	int ret = vmferry_connect(uri, options, in_seconds(10), &session);

	if (ret < 0)
		return failed("connect", ret);
	fill(base);
	ret = vmferry_register(session, base, BYTES, ADDRESS, VMFERRY_ACCESS_LOCAL, &memory);
	if (ret == 0)
		ret = expect(session, READY);
	if (ret < 0) {
		ret = failed("no destination to write to", ret);
	} else {
		ret = push(session, memory, base);
		vmferry_deregister(&memory);
	}
	vmferry_session_close(&session);
	return ret;
}

int main(int argc, char **argv)
{
	struct vmferry_transport_options options = {.size = sizeof(options)};
	void *base = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	vmferry_set_log(print_log, NULL, VMFERRY_LOG_WARN);
	if (argc > 3) {
		options.transport = VMFERRY_TRANSPORT_RDMA;
		options.rails[0] = argv[3];
		options.rail_count = 1;
	}
	if (base != MAP_FAILED && argc > 2 && strcmp(argv[1], "listen") == 0)
		return listen_at(argv[2], &options, base);
	if (base != MAP_FAILED && argc > 2 && strcmp(argv[1], "connect") == 0)
		return connect_to(argv[2], &options, base);
	fprintf(stderr, "usage: %s listen|connect URI [RAIL]\n", argv[0]);
	return 2;
}
