/* SPDX-License-Identifier: MIT */
#include "machine.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define START_NS  (60 * NS_PER_S)
#define ANSWER_NS (10 * NS_PER_S)
#define TEXT_MAX  160
#define WORDS_MAX 1024

/*
 * In the order in which they are tried. QEMU before 10.1 gives a vCPU of "host"
 * IA32_ARCH_CAPABILITIES where KVM lists it; on an AMD host KVM may list the MSR and refuse its
 * value, and QEMU aborts before it takes commands ("failed to set MSR 0x10a").
 */
static const char *const models[] = {"host", "host,-arch-capabilities"};
#define MODELS	 (sizeof(models) / sizeof(models[0]))
#define EMULATED "max"

static size_t model; /* the one that works, as far as is known */

struct json_object *machine_command(struct machine *m, const char *fmt, ...)
{
	char text[512];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	channel_send_text(&m->qmp, text);
	return channel_await(&m->qmp, "return", NULL, now_ns() + ANSWER_NS);
}

void machine_end(struct machine *m)
{
	if (m->pid > 0)
		reap(m->pid);
	m->pid = 0;
}

/*
 * Our end is returned, the other is for the child to inherit: closed by the caller once it has
 * started.
 */
static int pair(int *theirs)
{
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0)
		die("socketpair: %s", strerror(errno));
	fcntl(fds[0], F_SETFD, FD_CLOEXEC);
	*theirs = fds[1];
	return fds[0];
}

/*
 * An emulated vCPU's TSC is the host's, and no CPUID leaf tells its frequency. The guest would
 * measure it by the PIT, which a host with other work can keep it from.
 */
static uint64_t tsc_hz(void)
{
	static uint64_t hz;
	uint64_t ns, ticks;

	if (hz == 0) {
		ns = now_ns();
		ticks = __builtin_ia32_rdtsc();
		sleep_ns(50 * NS_PER_MS);
		ticks = __builtin_ia32_rdtsc() - ticks;
		ns = now_ns() - ns;
		hz = (uint64_t)((double)ticks / (double)ns * (double)NS_PER_S);
	}
	return hz;
}

static void make_words(const struct machine_options *o, char words[WORDS_MAX])
{
	int n = snprintf(words, WORDS_MAX, "%s", o->words);

	if (o->emulated)
		n += snprintf(words + n, n < WORDS_MAX ? WORDS_MAX - (size_t)n : 0, " tsc=%" PRIu64,
			      tsc_hz());
	if (n >= WORDS_MAX)
		die("the guest's command line is too long");
}

static void describe_memory(const struct machine_options *o, const char *size,
			    char object[TEXT_MAX])
{
	if (o->shared == NULL)
		snprintf(object, TEXT_MAX, "memory-backend-ram,id=pc.ram,size=%s", size);
	else if (*o->shared == '\0')
		snprintf(object, TEXT_MAX, "memory-backend-memfd,share=on,id=pc.ram,size=%s", size);
	else
		snprintf(object, TEXT_MAX,
			 "memory-backend-file,mem-path=%s,share=on,id=pc.ram,size=%s", o->shared,
			 size);
}

static pid_t spawn_qemu(const struct machine *m, const struct machine_options *o, bool incoming,
			const int theirs[3])
{
	char name[TEXT_MAX], memory[32], machine[TEXT_MAX], object[TEXT_MAX];
	char files[3][TEXT_MAX], words[WORDS_MAX];
	char *args[] = {
		(char *)o->qemu,
		"-name",
		name,
		"-nodefaults",
		"-no-user-config",
		"-display",
		"none",
		"-machine",
		machine,
		"-object",
		object,
		"-cpu",
		o->emulated ? EMULATED : (char *)models[model],
		"-smp",
		"1",
		"-m",
		memory,
		"-kernel",
		(char *)o->image,
		"-append",
		words,
		"-chardev",
		files[0],
		"-mon",
		"chardev=qmp,mode=control",
		"-chardev",
		files[1],
		"-device",
		"isa-debugcon,iobase=0xea,chardev=beat",
		"-chardev",
		files[2],
		"-device",
		"isa-debugcon,iobase=0xeb,chardev=status",
		"-chardev",
		"null,id=console",
		"-device",
		"isa-debugcon,iobase=0xe9,chardev=console",
		incoming ? "-incoming" : NULL,
		"defer",
		NULL,
	};

	make_words(o, words);
	snprintf(name, sizeof(name), "%s,debug-threads=on", m->name);
	snprintf(memory, sizeof(memory), "%" PRIu64 "M", o->memory / MIB);
	snprintf(machine, sizeof(machine), "pc,accel=%s,memory-backend=pc.ram",
		 o->emulated ? "tcg" : "kvm");
	describe_memory(o, memory, object);
	snprintf(files[0], sizeof(files[0]), "socket,id=qmp,fd=%d", theirs[0]);
	snprintf(files[1], sizeof(files[1]), "socket,id=beat,fd=%d", theirs[1]);
	snprintf(files[2], sizeof(files[2]), "socket,id=status,fd=%d", theirs[2]);
	return spawn(args);
}

/* False if QEMU ends instead of taking commands. */
static bool try_start(struct machine *m, const struct machine_options *options, bool incoming)
{
	int theirs[3];

	m->qmp = (struct channel){.name = m->name, .fd = pair(&theirs[0])};
	m->ports.beat_fd = pair(&theirs[1]);
	m->ports.status_fd = pair(&theirs[2]);
	/*
	 * Sent while its peer is surely open. It is answered when the vCPUs are there; the greeting
	 * can come before.
	 */
	channel_send_text(&m->qmp, "{\"execute\":\"qmp_capabilities\"}");
	m->pid = spawn_qemu(m, options, incoming, theirs);
	for (int i = 0; i < 3; i++)
		close(theirs[i]);
	if (channel_answers(&m->qmp, "return", now_ns() + START_NS))
		return true;
	machine_end(m);
	channel_close(&m->qmp);
	close(m->ports.beat_fd);
	close(m->ports.status_fd);
	return false;
}

void machine_start(struct machine *m, const struct machine_options *options, bool incoming)
{
	while (!try_start(m, options, incoming)) {
		if (options->emulated || ++model == MODELS)
			die("%s: QEMU does not start, what it said is above", m->name);
	}
}
