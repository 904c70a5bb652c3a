/* SPDX-License-Identifier: MIT */
#include "measure.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096ull

uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

uint64_t process_cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

void sleep_ns(uint64_t ns)
{
	struct timespec ts = {.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};

	while (nanosleep(&ts, &ts) < 0 && errno == EINTR)
		;
}

void die(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	fprintf(stderr, "%s: ", program_invocation_short_name);
	vfprintf(stderr, fmt, args);
	fputc('\n', stderr);
	va_end(args);
	exit(1);
}

uint64_t parse_size(const char *text)
{
	char *end;
	uint64_t n = strtoull(text, &end, 10);

	switch (*end) {
	case 'G':
		n *= GIB;
		break;
	case 'M':
		n *= MIB;
		break;
	case 'K':
		n *= 1024;
		break;
	case '\0':
		return n;
	default:
		die("%s: not a size: write 4096, 64K, 256M or 1G", text);
	}
	if (end[1] != '\0')
		die("%s: not a size: write 4096, 64K, 256M or 1G", text);
	return n;
}

void touch_free_memory(uint64_t bytes)
{
	char *memory;

	if (bytes == 0)
		return;
	memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		die("%llu bytes cannot be touched: %s", (unsigned long long)bytes, strerror(errno));
	madvise(memory, bytes, MADV_HUGEPAGE);
	for (uint64_t at = 0; at < bytes; at += PAGE)
		*(volatile char *)(memory + at) = 1;
	munmap(memory, bytes);
}

void be_prompt(void)
{
	struct sched_param param = {.sched_priority = 1};

	sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &param);
}

/* ---- processes ------------------------------------------------------------------------------- */

static void *wait_for_signal(void *set)
{
	int number;

	sigwait(set, &number);
	exit(128 + number);
}

void exit_on_signals(void)
{
	static sigset_t set;
	pthread_t thread;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	if (pthread_create(&thread, NULL, wait_for_signal, &set) != 0)
		die("no thread to wait for signals");
	pthread_detach(thread);
}

pid_t spawn(char *const argv[])
{
	pid_t parent = getpid();
	pid_t pid = fork();
	sigset_t none;
	int null;

	if (pid < 0)
		die("fork: %s", strerror(errno));
	if (pid > 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	null = open("/dev/null", O_RDWR);
	if (null < 0 || dup2(null, STDIN_FILENO) < 0 || dup2(null, STDOUT_FILENO) < 0 ||
	    getppid() != parent)
		_exit(126);
	if (null > STDERR_FILENO)
		close(null);
	execvp(argv[0], argv);
	fprintf(stderr, "%s: %s\n", argv[0], strerror(errno));
	_exit(127);
}

void reap(pid_t pid)
{
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}

void freeze(pid_t pid)
{
	int status;

	if (kill(pid, SIGSTOP) < 0 || waitpid(pid, &status, WUNTRACED) != pid ||
	    !WIFSTOPPED(status))
		die("process %d ended before it could be measured", (int)pid);
}

void thaw(pid_t pid)
{
	kill(pid, SIGCONT);
}

/* ---- CPU time -------------------------------------------------------------------------------- */

/* The first number of a thread's schedstat: nanoseconds on a CPU. 0 if the thread has gone. */
static uint64_t thread_ns(pid_t pid, const char *tid, const char *vcpu)
{
	char path[64];
	char name[32] = "";
	uint64_t ns = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/task/%.16s/comm", (int)pid, tid);
	file = fopen(path, "re");
	if (file == NULL)
		return 0;
	if (fgets(name, sizeof(name), file) == NULL)
		name[0] = '\0';
	fclose(file);
	if (strstr(name, vcpu) == NULL)
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/task/%.16s/schedstat", (int)pid, tid);
	file = fopen(path, "re");
	if (file == NULL)
		return 0;
	if (fscanf(file, "%lu", &ns) != 1)
		ns = 0;
	fclose(file);
	return ns;
}

struct cpu_time cpu_time(pid_t pid, const char *vcpu)
{
	struct cpu_time time = {0};
	struct timespec ts;
	struct dirent *entry;
	char path[32];
	clockid_t clock;
	DIR *tasks;

	if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &ts) < 0)
		die("process %d has no CPU clock: it has ended", (int)pid);
	time.all_ns = (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	tasks = opendir(path);
	if (tasks == NULL)
		die("%s: %s", path, strerror(errno));
	while ((entry = readdir(tasks)) != NULL) {
		if (entry->d_name[0] != '.')
			time.vcpus_ns += thread_ns(pid, entry->d_name, vcpu);
	}
	closedir(tasks);
	return time;
}

uint64_t cpu_used(struct cpu_time from, struct cpu_time to)
{
	if (to.vcpus_ns < from.vcpus_ns)
		exit(MEASURE_AGAIN);
	return to.all_ns - from.all_ns - (to.vcpus_ns - from.vcpus_ns);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static uint64_t resident(pid_t pid)
{
	uint64_t size;
	uint64_t pages = 0;
	char path[32];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/statm", (int)pid);
	file = fopen(path, "re");
	if (file == NULL || fscanf(file, "%lu %lu", &size, &pages) != 2)
		die("%s: cannot be read", path);
	fclose(file);
	return pages * PAGE;
}

static uint64_t nonzero_between(int fd, off_t from, off_t to)
{
	static const char zeroes[PAGE];
	uint64_t bytes = 0;
	char *p = mmap(NULL, (size_t)(to - from), PROT_READ, MAP_SHARED, fd, from);

	if (p == MAP_FAILED)
		die("guest memory cannot be mapped: %s", strerror(errno));
	for (off_t at = 0; at < to - from; at += (off_t)PAGE) {
		if (memcmp(p + at, zeroes, PAGE) != 0)
			bytes += PAGE;
	}
	munmap(p, (size_t)(to - from));
	return bytes;
}

/* Holes are not looked at: reading them would fill them. */
static uint64_t nonzero(int fd)
{
	uint64_t bytes = 0;
	off_t to = 0;

	for (;;) {
		off_t from = lseek(fd, to, SEEK_DATA);

		if (from < 0)
			return bytes;
		to = lseek(fd, from, SEEK_HOLE);
		if (to < 0)
			die("guest memory: SEEK_HOLE: %s", strerror(errno));
		bytes += nonzero_between(fd, from, to);
	}
}

static bool is_guest_memory(const char *path)
{
	char target[64];
	ssize_t n = readlink(path, target, sizeof(target) - 1);

	if (n < 0)
		return false;
	target[n] = '\0';
	return strncmp(target, "/memfd:guest", 12) == 0 || strncmp(target, "/#", 2) == 0;
}

static void add_guest_memory(struct memory_use *use, const char *path, int scan)
{
	struct stat st;
	int fd;

	if (!is_guest_memory(path))
		return;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		die("%s: %s", path, strerror(errno));
	use->guest += (uint64_t)st.st_blocks * 512;
	if (scan)
		use->nonzero += nonzero(fd);
	close(fd);
}

struct memory_use memory_use(pid_t pid, int scan)
{
	struct memory_use use = {.rss = resident(pid)};
	struct dirent *entry;
	char path[320];
	DIR *fds;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
	fds = opendir(path);
	if (fds == NULL)
		die("%s: %s", path, strerror(errno));
	while ((entry = readdir(fds)) != NULL) {
		snprintf(path, sizeof(path), "/proc/%d/fd/%s", (int)pid, entry->d_name);
		add_guest_memory(&use, path, scan);
	}
	closedir(fds);
	return use;
}
