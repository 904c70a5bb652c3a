/* SPDX-License-Identifier: MIT */
/*
 * The guest's side of the settings: which machine, which image, and the built-in guest's workload.
 */
#include "settings.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "units.h"

#define COMMAND_LINE_MAX 1024
#define MEMORY_STEP	 (2ull << 20)

static const char *const pages_choices[] = {"thp", "4k", "huge", NULL};
static const char *const tracker_choices[] = {"auto", "ring", "log", NULL};
static const char *const pattern_choices[] = {"seq", "random", "hotcold", NULL};
static const char *const touch_choices[] = {"all", "line", NULL};

#define AT(member) offsetof(struct machine_settings, member)

static const struct option_spec machine_specs[] = {
	OPTION("memory", "SIZE", "256M", "Memory of the guest, a multiple of 2M.", OPTION_SIZE,
	       AT(memory), .min = VMM_MEMORY_MIN, .max = 1ull << 42),
	OPTION("vcpus", "N", "1", "Virtual CPUs of the guest.", OPTION_COUNT, AT(vcpus), .min = 1,
	       .max = VMM_VCPUS_MAX),
	OPTION("pages", "KIND", "thp",
	       "Pages behind the guest's memory: thp, transparent huge pages where the system "
	       "gives them; 4k; or huge, from the pool of 2 MiB pages.",
	       OPTION_CHOICE, AT(pages), .choices = pages_choices),
	OPTION("numa", "NODE", "any", "Bind the guest's memory to this NUMA node.", OPTION_COUNT,
	       AT(numa), .max = 1023, .word = "any", .word_value = NUMA_ANY),
	OPTION("tracker", "KIND", "auto",
	       "How dirty pages are found: ring, the KVM dirty ring; log, the KVM dirty log; auto, "
	       "the ring where the kernel has it.",
	       OPTION_CHOICE, AT(tracker), .choices = tracker_choices),
	OPTION("ring-entries", "N", "auto", "Entries of each vCPU's dirty ring, a power of two.",
	       OPTION_COUNT, AT(ring_entries), .min = 1024, .max = 65536, .word = "auto",
	       .word_value = 0),
	OPTION("guest", "FILE", NULL,
	       "Boot this multiboot ELF image. Without it the guest that is built in is booted.",
	       OPTION_TEXT, AT(guest)),
	OPTION("module", "FILE", NULL,
	       "Multiboot module to load, its words behind the name: \"FILE WORDS\". May be "
	       "repeated.",
	       OPTION_LIST, AT(modules)),
	OPTION("append", "WORDS", NULL,
	       "The guest's command line; with the built-in guest, words to add to the workload's.",
	       OPTION_TEXT, AT(append)),
	{.name = NULL},
};

const struct option_group machine_group = {"Guest options", machine_specs};

#undef AT
#define AT(member) offsetof(struct workload_settings, member)

static const struct option_spec workload_specs[] = {
	OPTION("fill", "SIZE", "all", "Memory that is given distinct content at boot.", OPTION_SIZE,
	       AT(fill), .word = "all", .word_value = FILL_ALL),
	OPTION("ws", "SIZE", "64M", "Working set: the part of the filled memory that is rewritten.",
	       OPTION_SIZE, AT(ws)),
	OPTION("rate", "SIZE", "200M",
	       "Bytes that all vCPUs together dirty in a second; 0 is an idle guest.", OPTION_SIZE,
	       AT(rate)),
	OPTION("pattern", "WORD", "random",
	       "Order of the writes: seq, random, or hotcold (90 % of them in 10 % of the working "
	       "set).",
	       OPTION_CHOICE, AT(pattern), .choices = pattern_choices),
	OPTION("zero", "PERCENT", "0", "Share of the rewrites that leave a page of zeroes.",
	       OPTION_COUNT, AT(zero), .max = 100),
	OPTION("touch", "KIND", "all",
	       "How much of a page a rewrite changes: all, or line, only its first line.",
	       OPTION_CHOICE, AT(touch), .choices = touch_choices),
	OPTION("heartbeat", "HZ", "1000", "Beats a second of each vCPU.", OPTION_COUNT,
	       AT(heartbeat), .min = 1, .max = 20000),
	{.name = NULL},
};

#undef AT

const struct option_group workload_group = {"Workload options", workload_specs};

static bool power_of_two(uint64_t n)
{
	return n != 0 && (n & (n - 1)) == 0;
}

int machine_check(const struct machine_settings *machine, bool workload_given)
{
	const char *wrong = NULL;

	if (machine->memory % MEMORY_STEP != 0)
		wrong = "--memory: not a multiple of 2M: round it up";
	else if (machine->ring_entries != 0 && !power_of_two(machine->ring_entries))
		wrong = "--ring-entries: not a power of two: take 16384, for example";
	else if (machine->guest != NULL && workload_given)
		wrong = "--guest: the workload options are the built-in guest's: use --append";
	else if (machine->guest == NULL && machine->modules.count > 0)
		wrong = "--module: the built-in guest takes no modules: name an image with --guest";
	if (wrong == NULL)
		return 0;
	fprintf(stderr, "vmferry: %s\n", wrong);
	return -EINVAL;
}

static void machine_config(const struct machine_settings *machine, int console_fd,
			   struct vmm_config *config)
{
	*config = (struct vmm_config){
		.memory = machine->memory,
		.vcpus = (unsigned int)machine->vcpus,
		.pages = (enum vmm_pages)machine->pages,
		.numa_node = machine->numa == NUMA_ANY ? -1 : (int)machine->numa,
		.tracker = (enum vmferry_tracker)machine->tracker,
		.ring_entries = (uint32_t)machine->ring_entries,
		.console_fd = console_fd,
	};
}

/* The built-in guest's command line; see guest/abi.h for the words. */
static int workload_words(const struct machine_settings *machine,
			  const struct workload_settings *workload, char words[COMMAND_LINE_MAX])
{
	char fill[UNITS_TEXT_MAX] = "all";
	int length;

	if (workload->fill != FILL_ALL)
		units_exact_size(fill, workload->fill);
	length = snprintf(words, COMMAND_LINE_MAX,
			  "fill=%s ws=%" PRIu64 " rate=%" PRIu64 " pattern=%s zero=%" PRIu64
			  " touch=%s heartbeat=%" PRIu64 " vcpus=%" PRIu64 "%s%s",
			  fill, workload->ws, workload->rate, pattern_choices[workload->pattern],
			  workload->zero, touch_choices[workload->touch], workload->heartbeat,
			  machine->vcpus, machine->append == NULL ? "" : " ",
			  machine->append == NULL ? "" : machine->append);
	if (length < COMMAND_LINE_MAX)
		return 0;
	fprintf(stderr, "vmferry: --append: the command line is too long: at most %d bytes\n",
		COMMAND_LINE_MAX - 1);
	return -E2BIG;
}

int machine_start(const struct machine_settings *machine, const struct workload_settings *workload,
		  int console_fd, struct vmm **vmm)
{
	const char *line = machine->append == NULL ? "" : machine->append;
	char words[COMMAND_LINE_MAX];
	struct vmm_config config;
	int rc;

	if (machine->guest == NULL) {
		rc = workload_words(machine, workload, words);
		if (rc < 0)
			return rc;
		line = words;
	}
	machine_config(machine, console_fd, &config);
	/*
	 * This guest touches all of it anyway, and one page after the other that takes several
	 * times as long.
	 */
	config.prealloc = machine->guest == NULL && workload->fill == FILL_ALL;
	rc = vmm_new(&config, vmm);
	if (rc < 0)
		return rc;
	rc = vmm_boot(*vmm, machine->guest, line, machine->modules.items, machine->modules.count);
	if (rc == 0)
		rc = vmm_resume(*vmm);
	if (rc < 0)
		vmm_free(vmm);
	return rc;
}

int console_open(const char *name, int *fd)
{
	int rc;

	*fd = -1;
	if (strcmp(name, "none") == 0)
		return 0;
	if (strcmp(name, "-") == 0) {
		*fd = STDOUT_FILENO;
		return 0;
	}
	*fd = open(name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (*fd >= 0)
		return 0;
	rc = -errno;
	fprintf(stderr, "vmferry: --console %s: %s: name a file that can be written\n", name,
		strerror(-rc));
	return rc;
}

void console_close(int fd)
{
	if (fd > STDERR_FILENO)
		close(fd);
}
