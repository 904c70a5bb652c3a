/* SPDX-License-Identifier: MIT */
#include "pair.h"

#include <criterion/criterion.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <vmferry/vmferry.h>

#include "migrator/qemu/ask.h"
#include "migrator/qemu/log.h"
#include "migrator/qemu/placement.h"
#include "migrator/qemu/process.h"
#include "migrator/qemu/qmp.h"

#define WORDS_MAX   48
#define DEADLINE_NS (UINT64_C(1000000000) * SECONDS)
#define PAGE	    4096
#define STEP_MS	    20

static uint64_t deadline(void)
{
	return vmferry_now() + DEADLINE_NS;
}

static void run(const struct setting *setting, const char *qmp, const char *incoming)
{
	const char *program = getenv("QEMU");
	const char *words[WORDS_MAX] = {
		"qemu-system-x86_64", "-nodefaults", "-display", "none", "-accel", "tcg"};
	char memory[64];
	char backend[128];
	char socket[PATH_BYTES + 32];
	unsigned int count = 6;

	snprintf(memory, sizeof(memory), "%u", MEMORY_MIB);
	snprintf(backend, sizeof(backend), "memory-backend-memfd,id=m0,size=%uM,share=on",
		 MEMORY_MIB);
	snprintf(socket, sizeof(socket), "unix:%s,server=on,wait=off", qmp);
	words[count++] = "-m";
	words[count++] = memory;
	words[count++] = "-qmp";
	words[count++] = socket;
	if (setting->shared) {
		words[count++] = "-object";
		words[count++] = backend;
		words[count++] = "-machine";
		words[count++] = "memory-backend=m0";
	}
	if (incoming != NULL) {
		words[count++] = "-incoming";
		words[count++] = incoming;
	}
	if (incoming != NULL && !setting->starts)
		words[count++] = "-S";
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	execvp(program == NULL ? words[0] : program, (char *const *)(uintptr_t)words);
	_exit(127);
}

static void ignore_line(void *ctx, enum vmferry_log_level level, const char *line)
{
	(void)ctx;
	(void)level;
	(void)line;
}

static void machine_new(struct machine *machine, const char *name, const struct setting *setting,
			const char *qmp, const char *incoming)
{
	const uint64_t until = deadline();
	int status;

	snprintf(machine->name, sizeof(machine->name), "%s", name);
	machine->pid = fork();
	cr_assert_geq(machine->pid, 0);
	if (machine->pid == 0)
		run(setting, qmp, incoming);
	/* Its socket is not there at first. */
	qemu_set_log(ignore_line, NULL, VMFERRY_LOG_ERROR);
	while (qmp_open(qmp, until, &machine->qmp) < 0) {
		if (waitpid(machine->pid, &status, WNOHANG) != 0) {
			if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
				cr_skip_test("no QEMU here: apt install qemu-system-x86");
			cr_assert_fail("%s ended with status 0x%x", name, status);
		}
		cr_assert_lt(vmferry_now(), until);
		sleep_ms(STEP_MS);
	}
}

static uint64_t word_of(uint64_t gpa)
{
	return gpa * UINT64_C(0x9e3779b97f4a7c15) | 1;
}

/* Each page has its own first word. */
static void fill(struct machine *machine)
{
	static uint64_t data[PLACEMENT_PAGES_MAX][PAGE / 8];
	struct placement_page pages[PLACEMENT_PAGES_MAX];
	struct placement_block blocks[16];
	struct placement placements[16];
	struct qemu_process process;
	const int count = ask_blocks(machine->qmp, deadline(), blocks, 16);

	cr_assert_gt(count, 0);
	cr_assert_eq(qemu_process_open(machine->pid, &process), 0);
	cr_assert_eq(placement_find(&process, machine->qmp, PLACEMENT_WISH_AUTO, blocks,
				    (unsigned int)count, placements),
		     0);
	cr_assert_eq(placements[0].bytes, MEMORY_MIB * MIB);
	memset(data, 0x5a, sizeof(data));
	for (uint64_t at = FILLED_AT; at < FILLED_AT + FILLED; at += sizeof(data)) {
		for (unsigned int i = 0; i < PLACEMENT_PAGES_MAX; i++) {
			data[i][0] = word_of(at + i * PAGE);
			pages[i] = (struct placement_page){at + i * PAGE, data[i], PAGE};
		}
		cr_assert_eq(placement_write(&placements[0], pages, PLACEMENT_PAGES_MAX), 0);
	}
	placement_release(placements, (unsigned int)count);
	qemu_process_close(&process);
}

static uint64_t peek(struct machine *machine, uint64_t gpa)
{
	uint64_t value = 0;
	char line[64];
	char *text;

	snprintf(line, sizeof(line), "xp /1xg 0x%" PRIx64, gpa);
	cr_assert_eq(qmp_hmp(machine->qmp, line, deadline(), &text), 0);
	cr_assert_eq(sscanf(text, "%*x: 0x%" SCNx64, &value), 1, "%s", text);
	free(text);
	return value;
}

void pair_expect_memory(struct pair *pair)
{
	for (uint64_t at = FILLED_AT; at < FILLED_AT + FILLED; at += 31 * PAGE) {
		cr_expect_eq(peek(&pair->destination, at), word_of(at), "0x%" PRIx64, at);
		cr_expect_eq(peek(&pair->destination, at + 8), UINT64_C(0x5a5a5a5a5a5a5a5a));
	}
	cr_expect_eq(peek(&pair->destination, FILLED_AT + FILLED), 0);
}

static void destination_new(struct pair *pair, const struct setting *setting)
{
	char uri[PATH_BYTES + 8];
	const char *incoming = setting->incoming;

	snprintf(uri, sizeof(uri), "unix:%s", pair->incoming);
	if (incoming == NULL)
		incoming = uri;
	machine_new(&pair->destination, "destination", setting, pair->destination_qmp,
		    *incoming == '\0' ? NULL : incoming);
}

void pair_renew_destination(struct pair *pair, const struct setting *setting)
{
	qmp_close(&pair->destination.qmp);
	destination_new(pair, setting);
	qmp_close(&pair->destination.qmp);
}

void pair_new(struct pair *pair, const struct setting *setting)
{
	memset(pair, 0, sizeof(*pair));
	work_set_up();
	snprintf(pair->incoming, sizeof(pair->incoming), "%s", work_path("incoming"));
	snprintf(pair->source_qmp, sizeof(pair->source_qmp), "%s", work_path("source"));
	snprintf(pair->destination_qmp, sizeof(pair->destination_qmp), "%s",
		 work_path("destination"));
	snprintf(pair->json, sizeof(pair->json), "%s", work_path("json"));
	machine_new(&pair->source, "source", setting, pair->source_qmp, NULL);
	destination_new(pair, setting);
	fill(&pair->source);
	/* One client a socket: qemu-migrate is to be it. */
	qmp_close(&pair->source.qmp);
	qmp_close(&pair->destination.qmp);
}

static void machine_free(struct machine *machine)
{
	qmp_close(&machine->qmp);
	if (machine->pid == 0)
		return;
	kill(machine->pid, SIGKILL);
	waitpid(machine->pid, NULL, 0);
}

void pair_free(struct pair *pair)
{
	program_kill(&pair->program);
	machine_free(&pair->source);
	machine_free(&pair->destination);
	work_tear_down();
}

void pair_start(struct pair *pair, const char *const *words)
{
	const char *all[WORDS_MAX] = {
		"qemu-migrate", "--qmp",	pair->source_qmp, "--to-qmp", pair->destination_qmp,
		"--incoming",	pair->incoming, "--json",	  pair->json};
	bool uri = false;
	unsigned int count = 9;

	while (*words != NULL && count < WORDS_MAX - 2) {
		uri |= strncmp(*words, "tcp:", 4) == 0;
		all[count++] = *words++;
	}
	if (!uri)
		all[count++] = "tcp:127.0.0.1:0";
	program_start(&pair->program, all);
}

/* The QMP sockets are free again: the test takes them. */
static void take_sockets(struct pair *pair)
{
	if (pair->source.pid != 0 && pair->source.qmp == NULL)
		cr_assert_eq(qmp_open(pair->source_qmp, deadline(), &pair->source.qmp), 0);
	if (pair->destination.pid != 0 && pair->destination.qmp == NULL &&
	    waitpid(pair->destination.pid, NULL, WNOHANG) != 0)
		pair->destination.pid = 0;
	if (pair->destination.pid != 0 && pair->destination.qmp == NULL &&
	    qmp_open(pair->destination_qmp, deadline(), &pair->destination.qmp) < 0)
		pair->destination.qmp = NULL;
}

int pair_migrate(struct pair *pair, const char *const *words)
{
	int code;

	pair_start(pair, words);
	code = program_finish(&pair->program, SECONDS);
	take_sockets(pair);
	return code;
}

/* More than fits into the socket: then the adaptor has taken it, and the destination has begun. */
void pair_await_traffic(struct pair *pair)
{
	static const char mark[] = "migration: ";
	const uint64_t until = deadline();
	unsigned long bytes = 0;

	while (bytes < MIB) {
		for (const char *at = program_err(&pair->program); (at = strstr(at, mark));) {
			at += sizeof(mark) - 1;
			sscanf(at, "%lu bytes sent", &bytes);
		}
		cr_assert_lt(vmferry_now(), until, "%s", program_err(&pair->program));
		sleep_ms(STEP_MS);
	}
}

struct json_object *machine_ask(struct machine *machine, const char *command)
{
	struct json_object *result;

	cr_assert_eq(qmp_execute(machine->qmp, command, NULL, deadline(), &result), 0, "%s",
		     machine->name);
	return result;
}

void machine_tell(struct machine *machine, const char *command, const char *arguments)
{
	cr_assert_eq(qmp_execute(machine->qmp, command,
				 arguments == NULL ? NULL : json_tokener_parse(arguments),
				 deadline(), NULL),
		     0);
}

const char *machine_status(struct machine *machine)
{
	static char status[ASK_STATUS_MAX];

	if (machine->qmp == NULL || ask_status(machine->qmp, deadline(), status) < 0)
		return "gone";
	return status;
}

bool machine_becomes(struct machine *machine, const char *status)
{
	const uint64_t until = deadline();

	while (strcmp(machine_status(machine), status) != 0) {
		if (vmferry_now() >= until || strcmp(machine_status(machine), "gone") == 0)
			return false;
		sleep_ms(STEP_MS);
	}
	return true;
}

bool machine_ends(struct machine *machine)
{
	const uint64_t until = deadline();

	while (machine->pid != 0) {
		if (waitpid(machine->pid, NULL, WNOHANG) != 0)
			machine->pid = 0;
		else if (vmferry_now() >= until)
			return false;
		else
			sleep_ms(STEP_MS);
	}
	return true;
}

struct json_object *pair_report(const struct pair *pair)
{
	struct json_object *report = json_object_from_file(pair->json);

	cr_assert(report, "%s", json_util_get_last_err());
	return report;
}
