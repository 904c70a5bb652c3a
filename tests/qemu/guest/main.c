/* SPDX-License-Identifier: MIT */
/* Makes a working system of a kernel and this program, starts the workloads, and reports. */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "work.h"

#define PORT	     "/dev/vport0p1"
#define REPORT_NS    (500 * NS_PER_MS)
#define DEVICE_S     20
#define ERROR_LINES  50
#define MODULES_PATH "/modules"

struct counters counters;
static int port = -1;

void die(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	printf("guest: ");
	vprintf(fmt, args);
	printf("\n");
	va_end(args);
	fflush(stdout);
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}

int64_t clock_ns(int clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec * NS_PER_S + t.tv_nsec;
}

void sleep_ns(int64_t ns)
{
	struct timespec t = {.tv_sec = ns / NS_PER_S, .tv_nsec = ns % NS_PER_S};

	if (ns > 0)
		nanosleep(&t, NULL);
}

unsigned long option(const char *name, unsigned long otherwise)
{
	const char *value = getenv(name);

	return value ? strtoul(value, NULL, 0) : otherwise;
}

/* One write() a line: a port takes lines of several threads whole. */
static void report(const char *line, int length)
{
	if (write(port, line, (size_t)length) != length)
		die("report: %s", strerror(errno));
}

void report_error(const char *fmt, ...)
{
	char line[256] = "error ";
	va_list args;
	int length;

	if (atomic_fetch_add(&counters.errors, 1) >= ERROR_LINES)
		return;
	va_start(args, fmt);
	length = 6 + vsnprintf(line + 6, sizeof(line) - 7, fmt, args);
	va_end(args);
	if (length > (int)sizeof(line) - 2)
		length = sizeof(line) - 2;
	line[length] = '\n';
	report(line, length + 1);
}

static void load_modules(void)
{
	struct dirent **files;
	char path[512];
	int n = scandir(MODULES_PATH, &files, NULL, alphasort);

	for (int i = 0; i < n; i++) {
		int fd;

		if (files[i]->d_name[0] == '.')
			continue;
		snprintf(path, sizeof(path), MODULES_PATH "/%s", files[i]->d_name);
		fd = open(path, O_RDONLY);
		if (fd < 0 || syscall(SYS_finit_module, fd, "", 0) < 0)
			die("%s: %s", path, strerror(errno));
		close(fd);
	}
}

static void await_device(const char *path)
{
	struct stat s;

	for (int64_t end = clock_ns(CLOCK_MONOTONIC) + DEVICE_S * NS_PER_S; stat(path, &s) < 0;
	     sleep_ns(10 * NS_PER_MS))
		if (clock_ns(CLOCK_MONOTONIC) > end)
			die("no %s", path);
}

static void mount_all(void)
{
	mkdir("/dev", 0755);
	mkdir("/disk", 0755);
	if (mount("devtmpfs", "/dev", "devtmpfs", 0, NULL) < 0 && errno != EBUSY)
		die("/dev: %s", strerror(errno));
	load_modules();
	await_device("/dev/vda");
	if (mount("/dev/vda", "/disk", "ext4", 0, NULL) < 0)
		die("/dev/vda: %s", strerror(errno));
	await_device(PORT);
	port = open(PORT, O_WRONLY);
	if (port < 0)
		die(PORT ": %s", strerror(errno));
}

static void configure(int fd, unsigned long request, struct ifreq *r, const char *what)
{
	if (ioctl(fd, request, r) < 0)
		die("eth0: %s: %s", what, strerror(errno));
}

static void set_up_network(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	struct ifreq r = {.ifr_name = "eth0"};
	int fd = socket(AF_INET, SOCK_DGRAM, 0);

	address.sin_addr.s_addr = htonl((uint32_t)option("work_address", 0));
	memcpy(&r.ifr_addr, &address, sizeof(address));
	configure(fd, SIOCSIFADDR, &r, "address");
	address.sin_addr.s_addr = htonl(0xffffff00);
	memcpy(&r.ifr_netmask, &address, sizeof(address));
	configure(fd, SIOCSIFNETMASK, &r, "mask");
	r.ifr_flags = IFF_UP | IFF_RUNNING;
	configure(fd, SIOCSIFFLAGS, &r, "up");
	close(fd);
}

static void report_counters(unsigned int n)
{
	char line[512];
	int length;

	length = snprintf(line, sizeof(line),
			  "report n=%u mono_ns=%lld real_ns=%lld writes=%llu checks=%llu "
			  "passes=%llu files=%llu reads=%llu sent=%llu received=%llu ticks=%llu "
			  "gap_us=%llu errors=%llu\n",
			  n, (long long)clock_ns(CLOCK_MONOTONIC),
			  (long long)clock_ns(CLOCK_REALTIME), (unsigned long long)counters.writes,
			  (unsigned long long)counters.checks, (unsigned long long)counters.passes,
			  (unsigned long long)counters.files, (unsigned long long)counters.reads,
			  (unsigned long long)counters.sent, (unsigned long long)counters.received,
			  (unsigned long long)counters.ticks, (unsigned long long)counters.gap_us,
			  (unsigned long long)counters.errors);
	report(line, length);
}

int main(void)
{
	static void *(*const work[])(void *) = {memory_work, file_work, peer_work, clock_work};
	pthread_t thread;

	mount_all();
	set_up_network();
	for (size_t i = 0; i < sizeof(work) / sizeof(work[0]); i++)
		if (pthread_create(&thread, NULL, work[i], NULL) != 0)
			die("no thread");
	for (unsigned int n = 0;; n++) {
		report_counters(n);
		sleep_ns(REPORT_NS);
	}
}
