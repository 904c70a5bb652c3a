/* SPDX-License-Identifier: MIT */
/*
 * Starts QEMU and reads the guest's three ports through pipes. QEMU is stopped by a signal while a
 * test meddles with memory.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "guest/image.h"
#include "machine.h"

#define QEMU	    "qemu-system-x86_64"
#define DEADLINE_MS 120000

static bool is_program(const char *name)
{
	char path[4096];
	const char *folders = getenv("PATH");
	char *copy = strdup(folders ? folders : "/usr/bin");
	char *rest = copy;
	char *folder;
	bool found = false;

	cr_assert(copy);
	while (!found && (folder = strsep(&rest, ":")) != NULL) {
		snprintf(path, sizeof(path), "%s/%s", folder, name);
		found = access(path, X_OK) == 0;
	}
	free(copy);
	return found;
}

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int memory_file(const char *name, const void *bytes, size_t length, size_t size)
{
	int fd = memfd_create(name, 0); /* QEMU opens it by /proc/self/fd */

	cr_assert_geq(fd, 0);
	cr_assert_eq(ftruncate(fd, (off_t)size), 0);
	cr_assert_eq(pwrite(fd, bytes, length, 0), (ssize_t)length);
	return fd;
}

/*
 * What the guest of an emulated machine would measure by its PIT, which it cannot where the host is
 * busy.
 */
static uint64_t tsc_hz(void)
{
	const struct timespec nap = {.tv_nsec = 20000000};
	struct timespec from, to;
	uint64_t ticks;

	clock_gettime(CLOCK_MONOTONIC, &from);
	ticks = __builtin_ia32_rdtsc();
	nanosleep(&nap, NULL);
	clock_gettime(CLOCK_MONOTONIC, &to);
	ticks = __builtin_ia32_rdtsc() - ticks;
	return ticks * 1000000000ull /
	       (uint64_t)((to.tv_sec - from.tv_sec) * 1000000000ll + to.tv_nsec - from.tv_nsec);
}

static void run_qemu(unsigned int vcpus, const char *command_line, int image, int memory,
		     const int ports[3])
{
	bool kvm = access("/dev/kvm", R_OK | W_OK) == 0;
	char backend[128], kernel[64], smp[16], files[3][64], words[512];

	snprintf(backend, sizeof(backend),
		 "memory-backend-file,id=m,share=on,size=%u,mem-path=/proc/self/fd/%d",
		 MACHINE_MEMORY, memory);
	snprintf(kernel, sizeof(kernel), "/proc/self/fd/%d", image);
	snprintf(smp, sizeof(smp), "%u", vcpus);
	snprintf(words, sizeof(words), "%s", command_line);
	if (!kvm && strstr(command_line, "tsc=") == NULL)
		snprintf(words, sizeof(words), "%s tsc=%llu", command_line,
			 (unsigned long long)tsc_hz());
	for (int i = 0; i < 3; i++)
		snprintf(files[i], sizeof(files[i]), "file,id=p%d,path=/proc/self/fd/%d", i,
			 ports[i]);
	/* microvm: its firmware is short, which counts where KVM interprets it. */
	execlp(QEMU, QEMU, "-accel", kvm ? "kvm" : "tcg", "-machine",
	       "microvm,pit=on,pic=on,rtc=on,isa-serial=off,memory-backend=m", "-m", "64M",
	       "-object", backend, "-smp", smp, "-nodefaults", "-display", "none", "-kernel",
	       kernel, "-append", words, "-chardev", files[0], "-device",
	       "isa-debugcon,iobase=0xe9,chardev=p0", "-chardev", files[1], "-device",
	       "isa-debugcon,iobase=0xea,chardev=p1", "-chardev", files[2], "-device",
	       "isa-debugcon,iobase=0xeb,chardev=p2", (char *)NULL);
	_exit(127);
}

static int new_port(struct machine_port *port)
{
	int ends[2];

	cr_assert_eq(pipe2(ends, O_NONBLOCK), 0);
	cr_assert_eq(fcntl(ends[1], F_SETFL, 0), 0);
	fcntl(ends[0], F_SETFD, FD_CLOEXEC);
	port->fd = ends[0];
	return ends[1];
}

struct machine *machine_new(unsigned int vcpus, const char *command_line)
{
	struct machine *m;
	int image, memory, ports[3];

	if (!is_program(QEMU))
		cr_skip_test("no " QEMU " here: apt install qemu-system-x86");
	m = calloc(1, sizeof(*m));
	cr_assert(m);
	image = memory_file("image", guest_image, guest_image_size, guest_image_size);
	memory = memory_file("memory", "", 0, MACHINE_MEMORY);
	ports[0] = new_port(&m->console);
	ports[1] = new_port(&m->beats);
	ports[2] = new_port(&m->status);
	m->memory = mmap(NULL, MACHINE_MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
	cr_assert_neq(m->memory, MAP_FAILED);
	m->pid = fork();
	cr_assert_geq(m->pid, 0);
	if (m->pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		run_qemu(vcpus, command_line, image, memory, ports);
	}
	close(image);
	close(memory);
	for (int i = 0; i < 3; i++)
		close(ports[i]);
	return m;
}

void machine_free(struct machine *m)
{
	kill(m->pid, SIGKILL);
	waitpid(m->pid, NULL, 0);
	munmap(m->memory, MACHINE_MEMORY);
	close(m->console.fd);
	close(m->beats.fd);
	close(m->status.fd);
	free(m);
}

static void take_in(struct machine_port *port)
{
	ssize_t n;

	do {
		n = read(port->fd, port->bytes + port->length,
			 sizeof(port->bytes) - 1 - port->length);
		if (n > 0)
			port->length += (size_t)n;
	} while (n > 0);
	port->bytes[port->length] = '\0';
}

void machine_listen(struct machine *m, int milliseconds)
{
	int64_t end = now_ms() + milliseconds;

	do {
		take_in(&m->console);
		take_in(&m->beats);
		take_in(&m->status);
		poll(NULL, 0, milliseconds < 5 ? milliseconds : 5);
	} while (now_ms() < end);
}

size_t machine_count(const struct machine_port *port, char byte)
{
	size_t count = 0;

	for (size_t i = 0; i < port->length; i++)
		count += port->bytes[i] == byte;
	return count;
}

bool machine_wait_status(struct machine *m, char byte, unsigned int count)
{
	for (int64_t end = now_ms() + DEADLINE_MS; now_ms() < end; machine_listen(m, 5))
		if (machine_count(&m->status, byte) >= count)
			return true;
	cr_log_warn("console so far:\n%s", m->console.bytes);
	return false;
}

bool machine_wait_console(struct machine *m, const char *text)
{
	for (int64_t end = now_ms() + DEADLINE_MS; now_ms() < end; machine_listen(m, 5))
		if (strstr(m->console.bytes, text))
			return true;
	cr_log_warn("no \"%s\" on the console, but:\n%s", text, m->console.bytes);
	return false;
}

uint64_t machine_first_page(struct machine *m)
{
	const char *at = strstr(m->console.bytes, "KiB from ");

	cr_assert(at, "%s", m->console.bytes);
	return strtoull(at + strlen("KiB from "), NULL, 16);
}

void machine_stop(struct machine *m)
{
	int status;

	cr_assert_eq(kill(m->pid, SIGSTOP), 0);
	cr_assert_eq(waitpid(m->pid, &status, WUNTRACED), m->pid);
	cr_assert(WIFSTOPPED(status));
}

void machine_continue(struct machine *m)
{
	cr_assert_eq(kill(m->pid, SIGCONT), 0);
}
