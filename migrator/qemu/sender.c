/* SPDX-License-Identifier: MIT */
/*
 * Which connections belong together: a migration begins with its main connection, which the
 * stream's magic tells; those of multifd have a magic of their own, and come from the same process,
 * before the main stream's first page. libvirt connects for QEMU when there is only one connection,
 * so that a process may have several migrations, but then none of them has channels.
 */
#include "sender.h"

#include <errno.h>
#include <grp.h>
#include <json-c/json.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "bytes.h"
#include "log.h"
#include "moment.h"
#include "multifd.h"
#include "stream.h"

#define BACKLOG	     64
#define PENDING_MAX  64u
#define SOURCES_MAX  64u
#define STREAM_MAGIC 0x5145564du
/*
 * A connection that says nothing belongs to what its process has begun, e.g. for postcopy's urgent
 * pages.
 */
#define SILENT_NS (500 * NS_PER_MS)
/* A channel whose main connection does not come, or a connection that never says anything. */
#define PENDING_NS (30 * NS_PER_S)
#define BUSY_MS	   2
#define IDLE_MS	   1000

struct pending {
	int fd;
	pid_t pid;
	uint64_t since;
};

struct qemu_sender {
	struct qemu_sender_options options;
	struct qemu_source_options source_options;
	int fd;
	bool bound;   /* the path is ours to remove */
	int ended_fd; /* eventfd: a source has ended */

	/* The lock: the sender's thread and those of the sources' main streams, see settle(). */
	pthread_mutex_t lock;
	bool closing; /* no connection is taken any more */
	struct pending pending[PENDING_MAX];
	unsigned int pending_count;
	struct qemu_source *sources[SOURCES_MAX];
	unsigned int source_count;
	struct qemu_source *ended[SOURCES_MAX];
	unsigned int ended_count;
	unsigned int completed_count;
	unsigned int over_count;
};

/* ---- sources --------------------------------------------------------------------------------- */

static void source_ended(void *ctx, struct qemu_source *source, bool completed,
			 struct json_object *report)
{
	struct qemu_sender *s = ctx;
	const uint64_t one = 1;

	if (s->options.report != NULL)
		s->options.report(s->options.ctx, completed, report);
	json_object_put(report);
	pthread_mutex_lock(&s->lock);
	s->ended[s->ended_count++] = source;
	s->completed_count += completed;
	s->over_count++;
	pthread_mutex_unlock(&s->lock);
	if (write(s->ended_fd, &one, sizeof(one)) < 0)
		qemu_debug("sender: the eventfd is saturated");
}

/* With the lock held. The others stay in the order of their age, see find_open(). */
static void forget(struct qemu_sender *s, const struct qemu_source *source)
{
	unsigned int i = 0;

	while (i < s->source_count && s->sources[i] != source)
		i++;
	if (i == s->source_count)
		return;
	s->source_count--;
	memmove(&s->sources[i], &s->sources[i + 1],
		(s->source_count - i) * sizeof(struct qemu_source *));
}

/* Frees sources that have ended. */
static void reap(struct qemu_sender *s)
{
	for (;;) {
		struct qemu_source *source = NULL;

		pthread_mutex_lock(&s->lock);
		if (s->ended_count > 0)
			source = s->ended[--s->ended_count];
		if (source != NULL)
			forget(s, source);
		pthread_mutex_unlock(&s->lock);
		if (source == NULL)
			return;
		qemu_source_free(&source);
	}
}

/* The process' youngest migration that further connections may still belong to. */
static struct qemu_source *find_open(struct qemu_sender *s, pid_t pid)
{
	for (unsigned int i = s->source_count; i-- > 0;)
		if (qemu_source_pid(s->sources[i]) == pid && qemu_source_is_open(s->sources[i]))
			return s->sources[i];
	return NULL;
}

static void start(struct qemu_sender *s, const struct pending *p)
{
	struct qemu_source *source;

	if (s->source_count == SOURCES_MAX) {
		qemu_error("sender %s: refused pid %d: %u migrations are under way",
			   s->options.path, (int)p->pid, SOURCES_MAX);
		close(p->fd);
		return;
	}
	if (qemu_source_start(&s->source_options, p->fd, p->pid, &source) == 0)
		s->sources[s->source_count++] = source;
}

/* ---- connections that have not said what they are -------------------------------------------- */

enum verdict {
	WAIT,
	KEPT, /* somebody has its fd */
	REFUSED,
};

/*
 * Whether the process has connected before @p and not said for what: a channel's init may come
 * before the magic of its main stream, and an earlier migration of the process is not the one it
 * belongs to.
 */
static bool has_silent_elder(const struct qemu_sender *s, const struct pending *p)
{
	for (unsigned int i = 0; i < s->pending_count && s->pending[i].fd != p->fd; i++)
		if (s->pending[i].pid == p->pid)
			return true;
	return false;
}

static enum verdict join(struct qemu_sender *s, const struct pending *p, bool multifd)
{
	struct qemu_source *source = find_open(s, p->pid);

	if (source == NULL || (multifd && has_silent_elder(s, p)))
		return WAIT;
	qemu_source_join(source, p->fd, multifd);
	return KEPT;
}

static enum verdict judge(struct qemu_sender *s, const struct pending *p, uint64_t now)
{
	uint8_t magic[4];
	ssize_t n = recv(p->fd, magic, sizeof(magic), MSG_PEEK | MSG_DONTWAIT);
	enum verdict verdict = WAIT;

	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		return REFUSED;
	if (n < (ssize_t)sizeof(magic) && now - p->since < SILENT_NS)
		return WAIT;
	if (n == (ssize_t)sizeof(magic) && be32_get(magic) == MULTIFD_MAGIC)
		return join(s, p, true);
	if (n < (ssize_t)sizeof(magic) || be32_get(magic) != STREAM_MAGIC)
		verdict = join(s, p, false);
	/* A stream, or what is to be passed through as it is: TLS. */
	if (verdict == WAIT && n == (ssize_t)sizeof(magic)) {
		start(s, p);
		return KEPT;
	}
	return verdict;
}

/* With the lock held. */
static void judge_all(struct qemu_sender *s)
{
	uint64_t now = vmferry_now();
	unsigned int i = 0;
	unsigned int before;

	/* Again as long as one was decided: a main connection may have come behind its channels. */
	do {
		before = s->pending_count;
		for (i = 0; i < s->pending_count;) {
			struct pending p = s->pending[i];
			enum verdict verdict = judge(s, &p, now);

			if (verdict == WAIT && now - p.since > PENDING_NS) {
				qemu_warn("sender %s: refused a connection of pid %d: it has not "
					  "said what it is for %llu s",
					  s->options.path, (int)p.pid, PENDING_NS / NS_PER_S);
				verdict = REFUSED;
			}
			if (verdict == WAIT) {
				i++;
				continue;
			}
			if (verdict == REFUSED)
				close(p.fd);
			s->pending_count--;
			memmove(&s->pending[i], &s->pending[i + 1],
				(s->pending_count - i) * sizeof(s->pending[0]));
		}
	} while (s->pending_count < before);
}

static pid_t peer_pid(int fd)
{
	struct ucred cred;
	socklen_t length = sizeof(cred);

	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &length) == 0 ? cred.pid : 0;
}

/* With the lock held: takes all connections that wait. */
static void accept_all(struct qemu_sender *s)
{
	while (s->pending_count < PENDING_MAX) {
		int fd = accept4(s->fd, NULL, NULL, SOCK_CLOEXEC);

		if (fd < 0)
			return;
		s->pending[s->pending_count++] = (struct pending){fd, peer_pid(fd), vmferry_now()};
	}
}

/*
 * A main stream is about to drop pages: all channels are connected by then, and have said what they
 * are.
 */
static void settle(void *ctx)
{
	struct qemu_sender *s = ctx;

	pthread_mutex_lock(&s->lock);
	if (!s->closing) {
		accept_all(s);
		judge_all(s);
	}
	pthread_mutex_unlock(&s->lock);
}

/* ---- listening ------------------------------------------------------------------------------- */

static int set_group(const char *path, const char *name)
{
	const struct group *group = getgrnam(name);
	int ret;

	if (group == NULL) {
		qemu_error("sender %s: there is no group '%s'", path, name);
		return -ENOENT;
	}
	ret = chown(path, (uid_t)-1, group->gr_gid) == 0 && chmod(path, 0660) == 0 ? 0 : -errno;
	if (ret < 0)
		qemu_error("sender %s: the socket cannot be given to group '%s': %s", path, name,
			   strerror(-ret));
	return ret;
}

/* A socket file that nobody listens at is left over from a process that was killed. */
static int remove_stale(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct stat st;
	int fd, error;

	if (lstat(path, &st) < 0)
		return 0;
	if (!S_ISSOCK(st.st_mode)) {
		qemu_error("sender %s: there is a file that is no socket; choose another path",
			   path);
		return -EEXIST;
	}
	/* One that blocks would wait for whoever listens there and does not accept. */
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	error = connect(fd, (const struct sockaddr *)&address, sizeof(address)) == 0 ? 0 : errno;
	close(fd);
	if (error == 0 || error == EAGAIN) {
		qemu_error("sender %s: somebody listens there already", path);
		return -EADDRINUSE;
	}
	if (error == ECONNREFUSED)
		error = unlink(path) == 0 ? 0 : errno;
	if (error != 0)
		qemu_error("sender %s: what is there cannot be replaced: %s", path,
			   strerror(error));
	return -error;
}

static int listen_at(struct qemu_sender *s, const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	mode_t mask;
	int ret;

	if (strlen(path) >= sizeof(address.sun_path) || path[0] != '/') {
		qemu_error("sender %s: not an absolute path of at most %zu bytes", path,
			   sizeof(address.sun_path) - 1);
		return -EINVAL;
	}
	ret = remove_stale(path);
	if (ret < 0)
		return ret;
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	s->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (s->fd < 0)
		return -errno;
	/* Nobody else may connect in between. */
	mask = umask(0177);
	ret = bind(s->fd, (const struct sockaddr *)&address, sizeof(address)) == 0 ? 0 : -errno;
	umask(mask);
	s->bound = ret == 0;
	if (ret == 0 && listen(s->fd, BACKLOG) < 0)
		ret = -errno;
	if (ret < 0) {
		qemu_error("sender %s: cannot listen: %s", path, strerror(-ret));
		return ret;
	}
	return s->options.group != NULL ? set_group(path, s->options.group) : 0;
}

int qemu_sender_open(const struct qemu_sender_options *options, struct qemu_sender **sender)
{
	struct qemu_sender *s = calloc(1, sizeof(*s));
	int ret = 0;

	if (s == NULL)
		return -ENOMEM;
	s->options = *options;
	s->source_options = (struct qemu_source_options){
		.uri = options->uri,
		.path = options->path,
		.transport = options->transport,
		.require_offload = options->require_offload,
		.live = options->live,
		.qmp = options->qmp,
		.settle = settle,
		.ended = source_ended,
		.ctx = s,
	};
	pthread_mutex_init(&s->lock, NULL);
	s->ended_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	s->fd = options->listen_fd;
	if (s->ended_fd < 0)
		ret = -errno;
	else if (s->fd < 0)
		ret = listen_at(s, options->path);
	if (ret < 0) {
		qemu_sender_close(&s);
		return ret;
	}
	*sender = s;
	return 0;
}

/* ---- serving --------------------------------------------------------------------------------- */

/* Until there is something to do; true: to end. */
static bool await(struct qemu_sender *s, int stop_fd)
{
	struct pollfd fds[] = {{.fd = stop_fd, .events = POLLIN},
			       {.fd = s->fd, .events = POLLIN},
			       {.fd = s->ended_fd, .events = POLLIN}};
	uint64_t counter;
	bool busy;

	pthread_mutex_lock(&s->lock);
	busy = s->pending_count > 0;
	/* As long as there is no room its being readable means nothing. */
	if (s->pending_count == PENDING_MAX)
		fds[1].fd = -1;
	pthread_mutex_unlock(&s->lock);
	/*
	 * A connection that waits for another one would be readable all the time: they are looked
	 * at now and then.
	 */
	poll(fds, 3, busy ? BUSY_MS : IDLE_MS);
	if ((fds[2].revents & POLLIN) != 0 && read(s->ended_fd, &counter, sizeof(counter)) < 0)
		qemu_debug("sender %s: nobody has ended", s->options.path);
	return (fds[0].revents & POLLIN) != 0;
}

static void cancel_all(struct qemu_sender *s)
{
	pthread_mutex_lock(&s->lock);
	for (unsigned int i = 0; i < s->source_count; i++)
		qemu_source_cancel(s->sources[i]);
	pthread_mutex_unlock(&s->lock);
}

int qemu_sender_run(struct qemu_sender *s, int stop_fd)
{
	bool stopped = false;
	int ret = -ECANCELED;

	while (!stopped) {
		if (s->options.alive != NULL)
			s->options.alive(s->options.alive_ctx);
		stopped = await(s, stop_fd);
		reap(s);
		settle(s);
		pthread_mutex_lock(&s->lock);
		if (s->options.once && s->over_count > 0 && !stopped) {
			ret = s->completed_count > 0 ? 0 : -EIO;
			stopped = true;
		}
		pthread_mutex_unlock(&s->lock);
	}
	cancel_all(s);
	return ret;
}

void qemu_sender_close(struct qemu_sender **sender)
{
	struct qemu_sender *s = *sender;

	if (s == NULL)
		return;
	cancel_all(s);
	pthread_mutex_lock(&s->lock);
	s->closing = true;
	for (unsigned int i = 0; i < s->pending_count; i++)
		close(s->pending[i].fd);
	s->pending_count = 0;
	pthread_mutex_unlock(&s->lock);
	/* The sources' threads end by themselves now; the joining is in reap(). */
	while (s->source_count > 0) {
		struct pollfd p = {.fd = s->ended_fd, .events = POLLIN};

		reap(s);
		if (s->source_count > 0)
			poll(&p, 1, BUSY_MS);
	}
	if (s->fd >= 0)
		close(s->fd);
	if (s->bound)
		unlink(s->options.path);
	if (s->ended_fd >= 0)
		close(s->ended_fd);
	pthread_mutex_destroy(&s->lock);
	free(s);
	*sender = NULL;
}
