/* SPDX-License-Identifier: MIT */
/*
 * Linked into vmferry-held, which is vmferry but that the library tells this file of each phase
 * (--wrap of the functions that take the options): in the phase that VMFERRY_HOLD names it creates
 * the file that VMFERRY_HELD names and stands still until that file is gone. Whoever tests can then
 * kill a process or pull a cable in exactly that phase; other threads go on, as when a step takes
 * long.
 *
 * Two moments are no phase's beginning: "setup", while the first lane is being connected, and "go",
 * when the destination has taken GO and not run the guest yet.
 */
#include <fcntl.h>
#include <rdma/rdma_cma.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <vmferry/migration.h>

#define LOOK_NS (10 * 1000 * 1000)
/* Should nobody come: longer than any test waits for what it holds. */
#define LOOKS 6000

/* The linker makes these names. */
int __real_vmferry_source_new(const struct vmferry_vm *vm, const struct vmferry_source_ops *ops,
			      void *ctx, const char *uri,
			      const struct vmferry_source_options *options,
			      struct vmferry_source **source);
int __wrap_vmferry_source_new(const struct vmferry_vm *vm, const struct vmferry_source_ops *ops,
			      void *ctx, const char *uri,
			      const struct vmferry_source_options *options,
			      struct vmferry_source **source);
int __real_vmferry_destination_new(const struct vmferry_destination_ops *ops, void *ctx,
				   const char *uri,
				   const struct vmferry_destination_options *options,
				   struct vmferry_destination **destination);
int __wrap_vmferry_destination_new(const struct vmferry_destination_ops *ops, void *ctx,
				   const char *uri,
				   const struct vmferry_destination_options *options,
				   struct vmferry_destination **destination);

int __real_rdma_connect(struct rdma_cm_id *id, struct rdma_conn_param *param);
int __wrap_rdma_connect(struct rdma_cm_id *id, struct rdma_conn_param *param);
int __real_rdma_accept(struct rdma_cm_id *id, struct rdma_conn_param *param);
int __wrap_rdma_accept(struct rdma_cm_id *id, struct rdma_conn_param *param);

static int (*run_guest)(void *ctx);

static void hold(const char *file)
{
	const struct timespec nap = {.tv_nsec = LOOK_NS};
	int fd = open(file, O_CREAT | O_WRONLY | O_CLOEXEC, 0666);

	if (fd < 0) {
		perror(file);
		abort();
	}
	close(fd);
	for (int i = 0; i < LOOKS && access(file, F_OK) == 0; i++)
		nanosleep(&nap, NULL);
}

static void hold_at(const char *moment)
{
	const char *wanted = getenv("VMFERRY_HOLD"), *file = getenv("VMFERRY_HELD");

	if (wanted != NULL && file != NULL && strcmp(wanted, moment) == 0)
		hold(file);
}

static void hold_in(void *ctx, enum vmferry_phase phase)
{
	(void)ctx;
	hold_at(vmferry_phase_name(phase));
}

int __wrap_rdma_connect(struct rdma_cm_id *id, struct rdma_conn_param *param)
{
	hold_at("setup");
	return __real_rdma_connect(id, param);
}

int __wrap_rdma_accept(struct rdma_cm_id *id, struct rdma_conn_param *param)
{
	hold_at("setup");
	return __real_rdma_accept(id, param);
}

static int hold_and_run(void *ctx)
{
	hold_at("go");
	return run_guest(ctx);
}

int __wrap_vmferry_source_new(const struct vmferry_vm *vm, const struct vmferry_source_ops *ops,
			      void *ctx, const char *uri,
			      const struct vmferry_source_options *options,
			      struct vmferry_source **source)
{
	struct vmferry_source_options o = *options;

	o.on_phase = hold_in;
	return __real_vmferry_source_new(vm, ops, ctx, uri, &o, source);
}

int __wrap_vmferry_destination_new(const struct vmferry_destination_ops *ops, void *ctx,
				   const char *uri,
				   const struct vmferry_destination_options *options,
				   struct vmferry_destination **destination)
{
	struct vmferry_destination_options o = *options;
	struct vmferry_destination_ops held = *ops;

	o.on_phase = hold_in;
	run_guest = ops->run;
	held.run = hold_and_run;
	return __real_vmferry_destination_new(&held, ctx, uri, &o, destination);
}
