/* SPDX-License-Identifier: MIT */
/*
 * Two hosts with the adaptor's services in one process, and migrations between two QEMUs of tests.
 */
#ifndef TEST_RIG_H
#define TEST_RIG_H

#include <pthread.h>
#include <stdbool.h>

#include "guest.h"
#include "migrator/qemu/receiver.h"
#include "migrator/qemu/source.h"
#include "plan.h"

#define MS 1000000ull

struct rig {
	char directory[32];
	char path[48]; /* where the destination QEMU waits */
	struct qemu_receiver *receiver;
	pthread_t thread;
	int stop_fd;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned int destinations_over;
	bool destination_completed;
	char destination_reason[300];
};

struct outcome {
	bool sent;	       /* the source QEMU wrote all, and knows that the guest was loaded */
	bool source_completed; /* as the adaptor says */
	bool destination_completed; /* the same at the other end */
	char mode[16];
	char reason[300];
	struct qemu_to to;
	unsigned int wrong_afterwards;
	uint64_t moved; /* pages by lanes */
};

void rig_open(struct rig *rig);
void rig_close(struct rig *rig);

/* One migration from its start to both reports. */
void rig_migrate(struct rig *rig, const struct plan *plan, struct guest *guest,
		 struct outcome *outcome);

/* The same with a new guest of which all must arrive. */
void rig_expect_migration(struct rig *rig, const struct plan *plan);

/* An adaptor's source at one end of a socket pair; @fd is QEMU's. */
struct rig_source {
	struct qemu_source *source;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool over;
	bool completed;
	struct json_object *report;
};

void rig_source_start(struct rig *rig, struct rig_source *s, int *fd);
void rig_source_await(struct rig_source *s); /* frees it, but for the report */
const char *rig_text(const struct json_object *report, const char *name);

/*
 * Connected unix sockets that hold as much as most systems have them hold, and not what this one is
 * set to: how much a peer takes that does not read is what some tests are about.
 */
void rig_pair(int fds[2]);

/* How many destinations have ended. */
unsigned int rig_destinations(struct rig *rig);

/* Waits until @count have. */
void rig_await_destinations(struct rig *rig, unsigned int count);

/* Open files of this process. */
unsigned int rig_open_files(void);

#endif
