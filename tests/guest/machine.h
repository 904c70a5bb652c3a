/* SPDX-License-Identifier: MIT */
/*
 * The reference guest under QEMU, its memory in a file that a test can read and write behind the
 * guest's back. KVM where there is one, else QEMU's own emulation.
 */
#ifndef TESTS_GUEST_MACHINE_H
#define TESTS_GUEST_MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define MACHINE_MEMORY (64u << 20)
#define MACHINE_PAGE   4096u

/* What has come out of a port so far. */
struct machine_port {
	int fd;
	size_t length;
	char bytes[1 << 18];
};

struct machine {
	pid_t pid;
	unsigned char *memory;
	struct machine_port console, beats, status;
};

/* Skips the test where QEMU is missing. */
struct machine *machine_new(unsigned int vcpus, const char *command_line);
void machine_free(struct machine *m);

/*
 * Waits for the @count-th @byte on the status port, for @text on the console; false when it takes
 * too long.
 */
bool machine_wait_status(struct machine *m, char byte, unsigned int count);
bool machine_wait_console(struct machine *m, const char *text);

/* Takes in what the ports say for so long. */
void machine_listen(struct machine *m, int milliseconds);

/* How many bytes of the port are @byte. */
size_t machine_count(const struct machine_port *port, char byte);

/* The first filled page, after 'R'. */
uint64_t machine_first_page(struct machine *m);

/* Stops the vCPUs and lets them go on. */
void machine_stop(struct machine *m);
void machine_continue(struct machine *m);

#endif
