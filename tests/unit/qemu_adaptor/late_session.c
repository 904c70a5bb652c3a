/* SPDX-License-Identifier: MIT */
/*
 * A transport for tests that places each write as late as the contract of vmferry/transport.h
 * allows: when somebody waits for a fence behind it, or when the lane is full. A fence that is not
 * waited for, memory that is used again too early, and an order that was only hoped for show at
 * once, and in every run.
 */
#include "late_session.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <vmferry/transport.h>

#define LANES	     3u
#define QUEUE_BYTES  (4u << 20) /* of messages in one direction */
#define LANE_ENTRIES 512u	/* a lane with so many writes is full */
#define REGIONS	     64u
#define NS_PER_S     1000000000ull

struct vmferry_memory {
	struct vmferry_session *session;
	uint8_t *base;
	uint64_t size;
	uint64_t address;
	unsigned int access;
};

struct letter {
	struct letter *next;
	struct vmferry_message message;
};

struct entry {
	bool fence;
	uint32_t epoch;
	const struct vmferry_memory *memory;
	uint64_t offset;
	uint64_t address;
	uint64_t length;
};

struct late_lane {
	struct entry entries[LANE_ENTRIES];
	unsigned int count;
	uint64_t fenced;  /* last epoch + 1 */
	uint64_t reached; /* the same, of what is placed */
	uint64_t bytes;
};

struct vmferry_session {
	struct link *link;
	struct vmferry_session *peer; /* NULL once it is closed */
	int error;
	const char *failure;
	struct letter *first;
	struct letter **last;
	size_t queued;
};

/* Both ends and what is between them. */
struct link {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	struct vmferry_session ends[2]; /* source, destination */
	bool closed[2];
	struct late_lane lanes[LANES];
	struct vmferry_memory *regions[REGIONS]; /* the destination's */
	bool revoked;
	uint64_t random;
};

struct vmferry_listener {
	int fd;
	char uri[32];
	struct vmferry_session *waiting[16];
	unsigned int count;
};

static pthread_mutex_t registry_lock = PTHREAD_MUTEX_INITIALIZER;
static struct vmferry_listener *registered;
static unsigned int listeners;
static _Atomic unsigned int broken_rules;

unsigned int late_session_broken_rules(void)
{
	return broken_rules;
}

static void broke(const char *rule)
{
	broken_rules++;
	fprintf(stderr, "late session: %s\n", rule);
}

static uint32_t draw(struct link *link, uint32_t below)
{
	link->random ^= link->random << 13;
	link->random ^= link->random >> 7;
	link->random ^= link->random << 17;
	return (uint32_t)((link->random >> 20) % below);
}

static bool is_source(const struct vmferry_session *s)
{
	return s == &s->link->ends[0];
}

/* With the lock held. */
static int end(struct vmferry_session *s, int error, const char *failure)
{
	if (s->error == 0) {
		s->error = error;
		s->failure = failure;
	}
	pthread_cond_broadcast(&s->link->changed);
	return s->error;
}

static int wait_until(struct link *link, uint64_t deadline)
{
	const struct timespec until = {.tv_sec = (time_t)(deadline / NS_PER_S),
				       .tv_nsec = (long)(deadline % NS_PER_S)};

	return -pthread_cond_clockwait(&link->changed, &link->lock, CLOCK_MONOTONIC, &until);
}

/* ---- from the start to the end ---- */

static struct link *link_new(void)
{
	struct link *link = calloc(1, sizeof(*link));

	cr_assert_not_null(link);
	pthread_mutex_init(&link->lock, NULL);
	pthread_cond_init(&link->changed, NULL);
	link->random = 88172645463325252ull + (uint64_t)getpid();
	for (unsigned int i = 0; i < 2; i++)
		link->ends[i] = (struct vmferry_session){.link = link,
							 .peer = &link->ends[1 - i],
							 .failure = "",
							 .last = &link->ends[i].first};
	return link;
}

int vmferry_listen(const char *uri, const struct vmferry_transport_options *options,
		   struct vmferry_listener **listener)
{
	struct vmferry_listener *l = calloc(1, sizeof(*l));

	(void)uri;
	(void)options;
	cr_assert_not_null(l);
	l->fd = eventfd(0, EFD_CLOEXEC | EFD_SEMAPHORE | EFD_NONBLOCK);
	pthread_mutex_lock(&registry_lock);
	snprintf(l->uri, sizeof(l->uri), "tcp:late:%u", ++listeners);
	registered = l;
	pthread_mutex_unlock(&registry_lock);
	*listener = l;
	return 0;
}

const char *vmferry_listener_uri(const struct vmferry_listener *listener)
{
	return listener->uri;
}

int vmferry_listener_fd(const struct vmferry_listener *listener)
{
	return listener->fd;
}

int vmferry_accept(struct vmferry_listener *listener, uint64_t deadline,
		   struct vmferry_session **session)
{
	uint64_t one;
	int ret = -ETIMEDOUT;

	(void)deadline;
	pthread_mutex_lock(&registry_lock);
	if (read(listener->fd, &one, sizeof(one)) > 0) {
		*session = listener->waiting[0];
		listener->count--;
		memmove(listener->waiting, listener->waiting + 1,
			listener->count * sizeof(listener->waiting[0]));
		ret = 0;
	}
	pthread_mutex_unlock(&registry_lock);
	return ret;
}

void vmferry_listener_close(struct vmferry_listener **listener)
{
	struct vmferry_listener *l = *listener;

	if (l == NULL)
		return;
	pthread_mutex_lock(&registry_lock);
	if (registered == l)
		registered = NULL;
	pthread_mutex_unlock(&registry_lock);
	for (unsigned int i = 0; i < l->count; i++)
		vmferry_session_close(&l->waiting[i]);
	close(l->fd);
	free(l);
	*listener = NULL;
}

int vmferry_connect(const char *uri, const struct vmferry_transport_options *options,
		    uint64_t deadline, struct vmferry_session **session)
{
	struct link *link;
	int ret = -ECONNREFUSED;

	(void)options;
	(void)deadline;
	pthread_mutex_lock(&registry_lock);
	if (registered != NULL && strcmp(registered->uri, uri) == 0 && registered->count < 16) {
		link = link_new();
		registered->waiting[registered->count++] = &link->ends[1];
		cr_assert_eq(write(registered->fd, &(uint64_t){1}, 8), 8);
		*session = &link->ends[0];
		ret = 0;
	}
	pthread_mutex_unlock(&registry_lock);
	return ret;
}

void vmferry_session_shutdown(struct vmferry_session *s)
{
	pthread_mutex_lock(&s->link->lock);
	end(s, -ECANCELED, "shut down on this side");
	if (s->peer != NULL)
		end(s->peer, -ECONNRESET, "the peer is gone");
	pthread_mutex_unlock(&s->link->lock);
}

void vmferry_session_close(struct vmferry_session **session)
{
	struct vmferry_session *s = *session;
	struct link *link;
	struct letter *letter;
	bool last;

	if (s == NULL)
		return;
	*session = NULL;
	vmferry_session_shutdown(s);
	link = s->link;
	pthread_mutex_lock(&link->lock);
	link->closed[is_source(s) ? 0 : 1] = true;
	if (s->peer != NULL)
		s->peer->peer = NULL;
	while ((letter = s->first) != NULL) {
		s->first = letter->next;
		free(letter->message.data);
		free(letter);
	}
	last = link->closed[0] && link->closed[1];
	pthread_mutex_unlock(&link->lock);
	if (!last)
		return;
	pthread_cond_destroy(&link->changed);
	pthread_mutex_destroy(&link->lock);
	free(link);
}

const char *vmferry_session_transport(const struct vmferry_session *session)
{
	(void)session;
	return "late";
}

const char *vmferry_session_transport_reason(const struct vmferry_session *session)
{
	(void)session;
	return "a test";
}

const char *vmferry_session_failure(const struct vmferry_session *session)
{
	const char *failure;

	pthread_mutex_lock(&session->link->lock);
	failure = session->failure;
	pthread_mutex_unlock(&session->link->lock);
	return failure;
}

const char *vmferry_session_peer(const struct vmferry_session *session)
{
	return is_source(session) ? "destination" : "source";
}

unsigned int vmferry_session_lanes(const struct vmferry_session *session)
{
	(void)session;
	return LANES;
}

int vmferry_session_revoke(struct vmferry_session *session)
{
	pthread_mutex_lock(&session->link->lock);
	session->link->revoked = true;
	pthread_mutex_unlock(&session->link->lock);
	return 0;
}

/* ---- messages ---- */

int vmferry_send(struct vmferry_session *s, enum vmferry_channel channel, uint32_t type,
		 const void *data, size_t length, uint64_t deadline)
{
	struct letter *letter = calloc(1, sizeof(*letter));
	struct vmferry_session *to;
	int ret = 0;

	(void)channel;
	cr_assert_not_null(letter);
	letter->message = (struct vmferry_message){.type = type, .length = length};
	if (length > 0) {
		letter->message.data = malloc(length);
		memcpy(letter->message.data, data, length);
	}
	pthread_mutex_lock(&s->link->lock);
	while (s->error == 0 && s->peer->queued > QUEUE_BYTES && ret == 0)
		ret = wait_until(s->link, deadline);
	to = s->peer;
	if (s->error != 0 || to == NULL)
		ret = s->error != 0 ? s->error : -ECONNRESET;
	if (ret == 0) {
		*to->last = letter;
		to->last = &letter->next;
		to->queued += length;
		pthread_cond_broadcast(&s->link->changed);
	}
	pthread_mutex_unlock(&s->link->lock);
	if (ret < 0) {
		free(letter->message.data);
		free(letter);
	}
	return ret;
}

int vmferry_recv(struct vmferry_session *s, struct vmferry_message *message, uint64_t deadline)
{
	struct letter *letter;
	int ret = 0;

	pthread_mutex_lock(&s->link->lock);
	while (s->first == NULL && s->error == 0 && ret == 0)
		ret = wait_until(s->link, deadline);
	letter = s->error == -ECANCELED ? NULL : s->first;
	if (letter != NULL) {
		s->first = letter->next;
		if (s->first == NULL)
			s->last = &s->first;
		s->queued -= letter->message.length;
		*message = letter->message;
		pthread_cond_broadcast(&s->link->changed);
		ret = 0;
	} else if (s->error != 0) {
		ret = s->error;
	}
	pthread_mutex_unlock(&s->link->lock);
	free(letter);
	return ret;
}

void vmferry_message_free(struct vmferry_message *message)
{
	free(message->data);
	*message = (struct vmferry_message){0};
}

/* ---- memory ---- */

int vmferry_register(struct vmferry_session *s, void *base, uint64_t size, uint64_t address,
		     unsigned int access, struct vmferry_memory **memory)
{
	struct vmferry_memory *m = malloc(sizeof(*m));
	unsigned int i = 0;

	cr_assert_not_null(m);
	*m = (struct vmferry_memory){s, base, size, address, access};
	pthread_mutex_lock(&s->link->lock);
	if (access == VMFERRY_ACCESS_REMOTE_WRITE) {
		while (i < REGIONS && s->link->regions[i] != NULL)
			i++;
		cr_assert_lt(i, REGIONS);
		s->link->regions[i] = m;
	}
	pthread_mutex_unlock(&s->link->lock);
	*memory = m;
	return 0;
}

int vmferry_prepare(struct vmferry_memory *memory, uint64_t offset, uint64_t length)
{
	return offset <= memory->size && length <= memory->size - offset ? 0 : -EINVAL;
}

void vmferry_deregister(struct vmferry_memory **memory)
{
	struct vmferry_memory *m = *memory;
	struct link *link;

	if (m == NULL)
		return;
	link = m->session->link;
	pthread_mutex_lock(&link->lock);
	for (unsigned int i = 0; i < REGIONS; i++)
		if (link->regions[i] == m)
			link->regions[i] = NULL;
	for (unsigned int l = 0; l < LANES; l++)
		for (unsigned int i = 0; i < link->lanes[l].count; i++)
			if (link->lanes[l].entries[i].memory == m && m->session->error == 0)
				broke("memory was deregistered while a lane had writes from it");
	/* Nothing is placed any more of a session that is over. */
	if (m->session->error != 0 && m->access == VMFERRY_ACCESS_LOCAL)
		for (unsigned int l = 0; l < LANES; l++)
			link->lanes[l].count = 0;
	pthread_mutex_unlock(&link->lock);
	free(m);
	*memory = NULL;
}

/* ---- lanes ---- */

static int place(struct link *link, const struct entry *e)
{
	for (unsigned int i = 0; i < REGIONS && !link->revoked; i++) {
		const struct vmferry_memory *m = link->regions[i];

		if (m != NULL && e->address >= m->address && e->address - m->address <= m->size &&
		    e->length <= m->size - (e->address - m->address)) {
			memcpy(m->base + (e->address - m->address), e->memory->base + e->offset,
			       e->length);
			return 0;
		}
	}
	end(&link->ends[1], -EACCES, "a write to memory that is not registered");
	return end(&link->ends[0], -EACCES, "the destination refuses access");
}

/* Places the lane's oldest entry. */
static int place_one(struct link *link, struct late_lane *lane)
{
	const struct entry e = lane->entries[0];

	lane->count--;
	memmove(lane->entries, lane->entries + 1, lane->count * sizeof(e));
	if (!e.fence)
		return place(link, &e);
	lane->reached = (uint64_t)e.epoch + 1;
	pthread_cond_broadcast(&link->changed);
	return 0;
}

static int place_until(struct link *link, struct late_lane *lane, uint32_t epoch)
{
	int ret = 0;

	while (ret == 0 && lane->reached <= epoch && lane->fenced > epoch && lane->count > 0)
		ret = place_one(link, lane);
	return ret;
}

int vmferry_lane_write(struct vmferry_session *s, unsigned int number,
		       const struct vmferry_write *writes, unsigned int count, uint64_t deadline)
{
	struct link *link = s->link;
	struct late_lane *lane = &link->lanes[number];
	unsigned int taken = 0;
	int ret;

	(void)deadline;
	pthread_mutex_lock(&link->lock);
	ret = s->error;
	if (ret == 0)
		count = 1 + draw(link, count);
	while (ret == 0 && taken < count) {
		const struct vmferry_write *w = &writes[taken];

		if (w->offset > w->memory->size || w->length > w->memory->size - w->offset)
			broke("a write leaves its memory");
		if (lane->count == LANE_ENTRIES)
			ret = place_one(link, lane);
		lane->entries[lane->count++] = (struct entry){.memory = w->memory,
							      .offset = w->offset,
							      .address = w->address,
							      .length = w->length};
		lane->bytes += w->length;
		taken++;
	}
	pthread_mutex_unlock(&link->lock);
	return ret < 0 ? ret : (int)taken;
}

int vmferry_lane_fence(struct vmferry_session *s, unsigned int number, uint32_t epoch,
		       uint64_t deadline)
{
	struct link *link = s->link;
	struct late_lane *lane = &link->lanes[number];
	int ret;

	(void)deadline;
	pthread_mutex_lock(&link->lock);
	ret = s->error;
	if (ret == 0 && epoch < lane->fenced)
		ret = -EINVAL;
	if (ret == 0 && lane->count == LANE_ENTRIES)
		ret = place_one(link, lane);
	if (ret == 0) {
		lane->entries[lane->count++] = (struct entry){.fence = true, .epoch = epoch};
		lane->fenced = (uint64_t)epoch + 1;
		pthread_cond_broadcast(&link->changed);
	}
	pthread_mutex_unlock(&link->lock);
	return ret;
}

int vmferry_lane_fence_wait(struct vmferry_session *s, unsigned int number, uint32_t epoch,
			    uint64_t deadline)
{
	struct link *link = s->link;
	int ret;

	(void)deadline;
	pthread_mutex_lock(&link->lock);
	ret = s->error;
	if (ret == 0 && link->lanes[number].fenced <= epoch)
		broke("a fence is waited for that was not set");
	if (ret == 0 && draw(link, 4) == 0)
		ret = -ETIMEDOUT;
	if (ret == 0)
		ret = place_until(link, &link->lanes[number], epoch);
	pthread_mutex_unlock(&link->lock);
	return ret;
}

int vmferry_lane_probe(struct vmferry_session *s, unsigned int number)
{
	int ret;

	(void)number;
	pthread_mutex_lock(&s->link->lock);
	ret = s->error;
	/* A path of RDMA is over from there on, and a probe finds it so. */
	if (ret == 0 && s->link->revoked)
		ret = end(s, -EACCES, "a lane was probed that is revoked");
	pthread_mutex_unlock(&s->link->lock);
	return ret;
}

int vmferry_fence_wait(struct vmferry_session *s, uint32_t epoch, uint64_t deadline)
{
	struct link *link = s->link;
	int ret = -EAGAIN;
	int wait = 0;

	pthread_mutex_lock(&link->lock);
	while (ret == -EAGAIN) {
		ret = 0;
		for (unsigned int i = 0; i < LANES && ret >= 0; i++) {
			ret = place_until(link, &link->lanes[i], epoch);
			if (ret == 0 && link->lanes[i].reached <= epoch)
				ret = -EAGAIN;
		}
		if (ret == -EAGAIN && s->error != 0)
			ret = s->error;
		if (ret == -EAGAIN && wait != 0)
			ret = wait;
		if (ret == -EAGAIN)
			wait = wait_until(link, deadline);
	}
	pthread_mutex_unlock(&link->lock);
	return ret;
}

int vmferry_lane_stats(const struct vmferry_session *session, unsigned int lane,
		       struct vmferry_lane_stats *stats)
{
	*stats = (struct vmferry_lane_stats){.bytes = session->link->lanes[lane].bytes};
	return 0;
}
