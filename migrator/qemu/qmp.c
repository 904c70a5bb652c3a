/* SPDX-License-Identifier: MIT */
/*
 * The socket does not block: each wait is a poll() that ends at the caller's deadline. A connection
 * that lost its place in the dialogue, by a timeout within a command or by garbage, is broken and
 * stays so: an answer that comes late would be taken for the next command's.
 */
#include "qmp.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "log.h"

#define EVENTS_MAX	  64U
#define DEPTH_MAX	  32
#define MESSAGE_MAX_BYTES (8U << 20) /* query-qmp-schema, the largest known, has 0.3 MiB */
#define INPUT_BYTES	  16384
#define NAME_BYTES	  128
#define ERROR_BYTES	  256
#define RETRY_NS	  10000000
#define NS_PER_S	  1000000000

struct qmp {
	int fd;
	bool broken;
	unsigned int version;
	uint64_t id; /* of the last command */
	struct json_tokener *tokener;
	size_t message_bytes; /* of the message that is being read */
	size_t taken;	      /* of the input, by the tokener */
	size_t filled;
	unsigned int first; /* of the events, a ring */
	unsigned int queued;
	unsigned int lost;
	struct json_object *events[EVENTS_MAX];
	char name[NAME_BYTES];
	char error[ERROR_BYTES];
	char input[INPUT_BYTES];
};

/* Ends the use of the connection; the first reason is logged. */
static int broken(struct qmp *qmp, int error, const char *operation, const char *cause)
{
	if (!qmp->broken)
		qemu_error("QMP %s: %s failed: %s", qmp->name, operation, cause);
	qmp->broken = true;
	return error;
}

/* -ETIMEDOUT is left to the caller to judge. */
static int await(struct qmp *qmp, short events, uint64_t deadline)
{
	struct pollfd poll_fd = {.fd = qmp->fd, .events = events};

	for (;;) {
		const uint64_t now = vmferry_now();
		const uint64_t left = now < deadline ? deadline - now : 0;
		const struct timespec timeout = {.tv_sec = (time_t)(left / NS_PER_S),
						 .tv_nsec = (long)(left % NS_PER_S)};
		const int ready = ppoll(&poll_fd, 1, &timeout, NULL);

		if (ready > 0)
			return 0;
		if (ready == 0 && vmferry_now() >= deadline)
			return -ETIMEDOUT;
		if (ready < 0 && errno != EINTR)
			return broken(qmp, -errno, "poll", strerror(errno));
	}
}

/* Refills the input, which is used up. */
static int fill(struct qmp *qmp, uint64_t deadline)
{
	ssize_t got;
	int status;

	for (;;) {
		got = recv(qmp->fd, qmp->input, sizeof(qmp->input), 0);
		if (got > 0)
			break;
		if (got == 0 || errno == ECONNRESET)
			return broken(qmp, -EPIPE, "read", "QEMU closed the connection");
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN && errno != EWOULDBLOCK)
			return broken(qmp, -errno, "read", strerror(errno));
		status = await(qmp, POLLIN, deadline);
		if (status < 0)
			return status;
	}
	/* The tokener takes a zero for the end of its input, wherever it stands. */
	if (memchr(qmp->input, '\0', (size_t)got) != NULL)
		return broken(qmp, -EPROTO, "read", "a zero byte is not JSON");
	qmp->filled = (size_t)got;
	qmp->taken = 0;
	return 0;
}

/* Goes on with the message; NULL in @message: it goes on behind what was filled. */
static int tokenize(struct qmp *qmp, struct json_object **message)
{
	const size_t given = qmp->filled - qmp->taken;
	enum json_tokener_error error;

	*message = json_tokener_parse_ex(qmp->tokener, qmp->input + qmp->taken, (int)given);
	error = json_tokener_get_error(qmp->tokener);
	if (error == json_tokener_continue) {
		qmp->taken = qmp->filled;
		qmp->message_bytes += given;
		if (qmp->message_bytes > MESSAGE_MAX_BYTES)
			return broken(qmp, -EPROTO, "read", "a message is longer than 8 MiB");
		return 0;
	}
	if (error != json_tokener_success)
		return broken(qmp, -EPROTO, "read", json_tokener_error_desc(error));
	qmp->taken += json_tokener_get_parse_end(qmp->tokener);
	qmp->message_bytes = 0;
	if (json_object_is_type(*message, json_type_object))
		return 0;
	json_object_put(*message);
	*message = NULL;
	return broken(qmp, -EPROTO, "read", "a message is not a JSON object");
}

static int read_message(struct qmp *qmp, uint64_t deadline, struct json_object **message)
{
	int status = 0;

	*message = NULL;
	while (status == 0 && *message == NULL)
		status = qmp->taken < qmp->filled ? tokenize(qmp, message) : fill(qmp, deadline);
	return status;
}

static int send_text(struct qmp *qmp, const char *text, size_t bytes, uint64_t deadline)
{
	while (bytes > 0) {
		const ssize_t sent = send(qmp->fd, text, bytes, MSG_NOSIGNAL);
		int status;

		if (sent >= 0) {
			text += sent;
			bytes -= (size_t)sent;
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno == EPIPE || errno == ECONNRESET)
			return broken(qmp, -EPIPE, "write", "QEMU closed the connection");
		if (errno != EAGAIN && errno != EWOULDBLOCK)
			return broken(qmp, -errno, "write", strerror(errno));
		status = await(qmp, POLLOUT, deadline);
		if (status == -ETIMEDOUT)
			return broken(qmp, status, "write", "QEMU does not read it");
		if (status < 0)
			return status;
	}
	return 0;
}

static void queue_event(struct qmp *qmp, struct json_object *event)
{
	if (qmp->queued == EVENTS_MAX) {
		json_object_put(qmp->events[qmp->first]);
		qmp->first = (qmp->first + 1) % EVENTS_MAX;
		qmp->queued--;
		if (qmp->lost++ == 0)
			qemu_warn("QMP %s: more than %u events wait: the oldest are dropped",
				  qmp->name, EVENTS_MAX);
	}
	qmp->events[(qmp->first + qmp->queued++) % EVENTS_MAX] = event;
}

static void keep_refusal(struct qmp *qmp, struct json_object *error)
{
	struct json_object *class = NULL;
	struct json_object *description = NULL;

	json_object_object_get_ex(error, "class", &class);
	json_object_object_get_ex(error, "desc", &description);
	snprintf(qmp->error, sizeof(qmp->error), "%s: %s",
		 class == NULL ? "GenericError" : json_object_get_string(class),
		 description == NULL ? "no description" : json_object_get_string(description));
}

/* Whether @message answers the last command: QEMU repeats the id of each command in its answer. */
static bool answers(const struct qmp *qmp, struct json_object *message)
{
	struct json_object *id;

	return json_object_object_get_ex(message, "id", &id) &&
	       json_object_is_type(id, json_type_int) && json_object_get_uint64(id) == qmp->id;
}

/* Takes the result or the refusal out of @message. */
static int take_answer(struct qmp *qmp, struct json_object *message, struct json_object **result)
{
	struct json_object *value;

	if (!answers(qmp, message))
		return broken(qmp, -EPROTO, "read", "an answer to no command of ours");
	if (json_object_object_get_ex(message, "return", &value)) {
		*result = json_object_get(value);
		return 0;
	}
	if (!json_object_object_get_ex(message, "error", &value) ||
	    !json_object_is_type(value, json_type_object))
		return broken(qmp, -EPROTO, "read", "an answer has neither return nor error");
	keep_refusal(qmp, value);
	return -EREMOTEIO;
}

static int await_answer(struct qmp *qmp, uint64_t deadline, struct json_object **result)
{
	struct json_object *message;
	int status;

	for (;;) {
		status = read_message(qmp, deadline, &message);
		if (status == -ETIMEDOUT)
			return broken(qmp, status, "command",
				      "no answer in time; is the process stopped, or is another "
				      "client connected?");
		if (status < 0)
			return status;
		if (!json_object_object_get_ex(message, "event", NULL))
			break;
		queue_event(qmp, message);
	}
	status = take_answer(qmp, message, result);
	json_object_put(message);
	return status;
}

static int send_command(struct qmp *qmp, const char *command, struct json_object *arguments,
			uint64_t deadline)
{
	struct json_object *request = json_object_new_object();
	size_t bytes;
	const char *text;
	int status;

	json_object_object_add(request, "execute", json_object_new_string(command));
	if (arguments != NULL)
		json_object_object_add(request, "arguments", arguments);
	json_object_object_add(request, "id", json_object_new_uint64(++qmp->id));
	text = json_object_to_json_string_length(request, JSON_C_TO_STRING_PLAIN, &bytes);
	status = send_text(qmp, text, bytes, deadline);
	if (status == 0)
		status = send_text(qmp, "\n", 1, deadline);
	json_object_put(request);
	return status;
}

int qmp_ask(struct qmp *qmp, const char *command, struct json_object *arguments, uint64_t deadline,
	    struct json_object **result)
{
	struct json_object *answer = NULL;
	int status;

	qmp->error[0] = '\0';
	if (qmp->broken) {
		json_object_put(arguments);
		return -EPIPE;
	}
	status = send_command(qmp, command, arguments, deadline);
	if (status == 0)
		status = await_answer(qmp, deadline, &answer);
	if (status == -EREMOTEIO)
		qemu_debug("QMP %s: %s refused: %s", qmp->name, command, qmp->error);
	if (status == 0 && result != NULL)
		*result = answer;
	else
		json_object_put(answer);
	return status;
}

int qmp_execute(struct qmp *qmp, const char *command, struct json_object *arguments,
		uint64_t deadline, struct json_object **result)
{
	const int status = qmp_ask(qmp, command, arguments, deadline, result);

	if (status == -EREMOTEIO)
		qemu_error("QMP %s: %s refused: %s", qmp->name, command, qmp->error);
	return status;
}

const char *qmp_error(const struct qmp *qmp)
{
	return qmp->error;
}

int qmp_hmp(struct qmp *qmp, const char *line, uint64_t deadline, char **text)
{
	struct json_object *arguments = json_object_new_object();
	struct json_object *result = NULL;
	int status;

	*text = NULL;
	json_object_object_add(arguments, "command-line", json_object_new_string(line));
	status = qmp_ask(qmp, "human-monitor-command", arguments, deadline, &result);
	if (status < 0)
		return status;
	if (json_object_is_type(result, json_type_string))
		*text = strdup(json_object_get_string(result));
	else
		status = broken(qmp, -EPROTO, line, "its result is no text");
	json_object_put(result);
	return status == 0 && *text == NULL ? -ENOMEM : status;
}

int qmp_event(struct qmp *qmp, uint64_t deadline, struct json_object **event)
{
	struct json_object *message;
	int status;

	if (qmp->queued > 0) {
		*event = qmp->events[qmp->first];
		qmp->first = (qmp->first + 1) % EVENTS_MAX;
		qmp->queued--;
		return 0;
	}
	if (qmp->broken)
		return -EPIPE;
	status = read_message(qmp, deadline, &message);
	if (status < 0)
		return status;
	if (json_object_object_get_ex(message, "event", NULL)) {
		*event = message;
		return 0;
	}
	json_object_put(message);
	return broken(qmp, -EPROTO, "read", "an answer to no command of ours");
}

int qmp_fd(const struct qmp *qmp)
{
	return qmp->fd;
}

unsigned int qmp_version(const struct qmp *qmp)
{
	return qmp->version;
}

static unsigned int version_part(struct json_object *version, const char *name)
{
	struct json_object *part;
	int value;

	if (!json_object_object_get_ex(version, name, &part))
		return 0;
	value = json_object_get_int(part);
	return value >= 0 && value < 100 ? (unsigned int)value : 0;
}

static int take_greeting(struct qmp *qmp, struct json_object *greeting)
{
	struct json_object *value;

	if (!json_object_object_get_ex(greeting, "QMP", &value))
		return broken(qmp, -EPROTO, "open", "no QMP greeting; is it a human monitor?");
	if (json_object_object_get_ex(value, "version", &value) &&
	    json_object_object_get_ex(value, "qemu", &value))
		qmp->version = version_part(value, "major") * 10000 +
			       version_part(value, "minor") * 100 + version_part(value, "micro");
	return 0;
}

static int greet(struct qmp *qmp, uint64_t deadline)
{
	struct json_object *greeting;
	int status = read_message(qmp, deadline, &greeting);

	if (status == -ETIMEDOUT)
		return broken(qmp, status, "open",
			      "no greeting in time; QEMU serves one client a socket: end the "
			      "other one, or give QEMU a second -qmp");
	if (status < 0)
		return status;
	status = take_greeting(qmp, greeting);
	json_object_put(greeting);
	return status < 0 ? status : qmp_execute(qmp, "qmp_capabilities", NULL, deadline, NULL);
}

int qmp_open_fd(int fd, const char *name, uint64_t deadline, struct qmp **qmp)
{
	struct qmp *new = calloc(1, sizeof(*new));
	int status;

	if (new == NULL) {
		close(fd);
		return -ENOMEM;
	}
	new->fd = fd;
	fcntl(fd, F_SETFL, O_NONBLOCK);
	snprintf(new->name, sizeof(new->name), "%s", name);
	new->tokener = json_tokener_new_ex(DEPTH_MAX);
	status = new->tokener == NULL ? -ENOMEM : greet(new, deadline);
	if (status < 0)
		qmp_close(&new);
	else
		*qmp = new;
	return status;
}

/*
 * The listener's backlog may be full: then connect() gives -EAGAIN, and there is nothing to poll
 * for.
 */
static int connect_until(int fd, const struct sockaddr_un *address, uint64_t deadline)
{
	const struct timespec pause = {.tv_nsec = RETRY_NS};

	while (connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0) {
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		if (vmferry_now() >= deadline)
			return -ETIMEDOUT;
		nanosleep(&pause, NULL);
	}
	return 0;
}

int qmp_open(const char *path, uint64_t deadline, struct qmp **qmp)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int status;
	int fd;

	if (strlen(path) >= sizeof(address.sun_path)) {
		qemu_error("QMP %s: open failed: the path is longer than %zu bytes", path,
			   sizeof(address.sun_path) - 1);
		return -ENAMETOOLONG;
	}
	memcpy(address.sun_path, path, strlen(path) + 1);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	status = fd < 0 ? -errno : connect_until(fd, &address, deadline);
	if (status == 0)
		return qmp_open_fd(fd, path, deadline, qmp);
	qemu_error("QMP %s: open failed: %s; start QEMU with -qmp unix:%s,server=on,wait=off", path,
		   strerror(-status), path);
	if (fd >= 0)
		close(fd);
	return status;
}

void qmp_close(struct qmp **qmp)
{
	struct qmp *old = *qmp;

	*qmp = NULL;
	if (old == NULL)
		return;
	for (unsigned int i = 0; i < old->queued; i++)
		json_object_put(old->events[(old->first + i) % EVENTS_MAX]);
	if (old->tokener != NULL)
		json_tokener_free(old->tokener);
	close(old->fd);
	free(old);
}
