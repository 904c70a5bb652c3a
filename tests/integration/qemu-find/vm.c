/* SPDX-License-Identifier: MIT */
#include "vm.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <vmferry/vmferry.h>

#include "migrator/qemu/qmp.h"

#define OPTIONS_MAX 48
#define DEADLINE_NS 60000000000U
#define PAUSE_NS    20000000

uint64_t vm_deadline(void)
{
	return vmferry_now() + DEADLINE_NS;
}

static void run(const struct vm *vm, const char *const *options)
{
	const char *program = getenv("QEMU");
	const char *words[OPTIONS_MAX] = {
		"qemu-system-x86_64", "-nodefaults", "-display", "none", "-accel", "tcg"};
	char incoming[128];
	char qmp[128];
	unsigned int count = 6;

	snprintf(incoming, sizeof(incoming), "unix:%s/incoming", vm->folder);
	snprintf(qmp, sizeof(qmp), "unix:%s/qmp,server=on,wait=off", vm->folder);
	words[count++] = "-incoming";
	words[count++] = incoming;
	words[count++] = "-qmp";
	words[count++] = qmp;
	while (*options != NULL && count < OPTIONS_MAX - 1)
		words[count++] = *options++;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	execvp(program == NULL ? words[0] : program, (char *const *)(uintptr_t)words);
	_exit(127);
}

/* Until QEMU listens. One that never ran ended with 127. */
static int connect_incoming(const struct vm *vm)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	const struct timespec pause = {.tv_nsec = PAUSE_NS};
	const uint64_t deadline = vm_deadline();
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int status;

	snprintf(address.sun_path, sizeof(address.sun_path), "%s/incoming", vm->folder);
	while (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		if (waitpid(vm->pid, &status, WNOHANG) != 0) {
			if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
				cr_skip_test("no QEMU here: apt install qemu-system-x86");
			cr_assert_fail("QEMU ended with status 0x%x", status);
		}
		cr_assert_lt(vmferry_now(), deadline, "QEMU does not listen");
		nanosleep(&pause, NULL);
	}
	return fd;
}

/* Of "info ramblock", whose first five columns are the same in each version. */
static void take_blocks(struct vm *vm)
{
	char *text;
	char *rest;
	char *line;

	cr_assert_eq(qmp_hmp(vm->qmp, "info ramblock", vm_deadline(), &text), 0);
	rest = text;
	while ((line = strsep(&rest, "\n")) != NULL && vm->count < VM_BLOCKS_MAX) {
		struct placement_block *block = &vm->blocks[vm->count];

		if (sscanf(line, " %255s %*u %*s 0x%*x 0x%" SCNx64, block->name, &block->bytes) ==
		    2)
			vm->count++;
	}
	free(text);
	cr_assert_gt(vm->count, 0);
}

struct vm *vm_new(const char *const *options)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	char path[128];

	cr_assert(vm);
	snprintf(vm->folder, sizeof(vm->folder), "/tmp/qemu-find.XXXXXX");
	cr_assert(mkdtemp(vm->folder));
	vm->pid = fork();
	cr_assert_geq(vm->pid, 0);
	if (vm->pid == 0)
		run(vm, options);
	vm->incoming = connect_incoming(vm);
	cr_assert_eq(qemu_process_of_socket(vm->incoming, &vm->process), 0);
	snprintf(path, sizeof(path), "%s/qmp", vm->folder);
	cr_assert_eq(qmp_open(path, vm_deadline(), &vm->qmp), 0);
	take_blocks(vm);
	return vm;
}

void vm_free(struct vm *vm)
{
	static const char *const files[] = {"incoming", "qmp"};
	char path[128];

	placement_release(vm->placements, vm->placements[0].name[0] == '\0' ? 0 : vm->count);
	qmp_close(&vm->qmp);
	close(vm->incoming);
	kill(vm->pid, SIGKILL);
	waitpid(vm->pid, NULL, 0);
	qemu_process_close(&vm->process);
	for (unsigned int i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s/%s", vm->folder, files[i]);
		unlink(path);
	}
	rmdir(vm->folder);
	free(vm);
}

void vm_find(struct vm *vm, bool qmp, enum placement_wish wish)
{
	cr_assert_eq(placement_find(&vm->process, qmp ? vm->qmp : NULL, wish, vm->blocks, vm->count,
				    vm->placements),
		     0);
}

struct placement *vm_block(struct vm *vm, const char *name)
{
	for (unsigned int i = 0; i < vm->count; i++)
		if (strcmp(vm->placements[i].name, name) == 0)
			return &vm->placements[i];
	cr_assert_fail("no block %s", name);
	return NULL;
}

uint64_t vm_peek(struct vm *vm, uint64_t gpa)
{
	uint64_t value = 0;
	char line[64];
	char *text;

	snprintf(line, sizeof(line), "xp /1xg 0x%" PRIx64, gpa);
	cr_assert_eq(qmp_hmp(vm->qmp, line, vm_deadline(), &text), 0);
	cr_assert_eq(sscanf(text, "%*x: 0x%" SCNx64, &value), 1, "%s", text);
	free(text);
	return value;
}
