/* SPDX-License-Identifier: MIT */
/*
 * Booting: reads the guest's files, completes the command line of the built-in one, and sets the
 * entry state.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest/image.h"

#include "bootinfo.h"
#include "internal.h"
#include "loader.h"
#include "log.h"

#define CODE_SELECTOR 0x10
#define DATA_SELECTOR 0x18
#define CODE_TYPE     0xb /* execute, read, accessed */
#define DATA_TYPE     0x3 /* read, write, accessed */

#define CR0_PE	       0x1ull
#define CR0_ET	       0x10ull
#define RFLAGS_ALWAYS1 0x2ull

struct file {
	void *data;
	size_t size;
};

static int read_all(int fd, struct file *f)
{
	size_t done = 0;

	while (done < f->size) {
		ssize_t n = read(fd, (char *)f->data + done, f->size - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			return -EIO; /* it became shorter */
		done += (size_t)n;
	}
	return 0;
}

/* @limit: more cannot fit in the guest. */
static int read_open_file(int fd, uint64_t limit, struct file *f)
{
	struct stat st;
	int err;

	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	if ((uint64_t)st.st_size > limit)
		return -EFBIG;
	f->size = (size_t)st.st_size;
	f->data = malloc(f->size ? f->size : 1);
	if (!f->data)
		return -ENOMEM;
	err = read_all(fd, f);
	if (err) {
		free(f->data);
		f->data = NULL;
	}
	return err;
}

static int read_file(const char *path, uint64_t limit, struct file *f)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO must not hold us up */
	int err = fd < 0 ? -errno : read_open_file(fd, limit, f);

	if (fd >= 0)
		close(fd);
	if (err)
		vmm_error("guest %s: cannot be read: %s", path,
			  err == -EINVAL  ? "it is not a regular file"
			  : err == -EFBIG ? "it is larger than the guest's memory"
					  : strerror(-err));
	return err;
}

/* ---- the command line ------------------------------------------------------------------------ */

static bool has_word(const char *line, const char *word)
{
	size_t length = strlen(word);

	for (const char *p = line; (p = strstr(p, word)); p += length) {
		if (p == line || p[-1] == ' ')
			return true;
	}
	return false;
}

/* The built-in guest cannot count vCPUs or measure the TSC by itself. */
static int complete_line(const struct vmm *vmm, const char *line, char **out)
{
	long khz = ioctl(vmm->vcpu[0].fd, KVM_GET_TSC_KHZ, 0);
	char vcpus[32] = "";
	char tsc[48] = "";

	if (khz > 0)
		snprintf(tsc, sizeof(tsc), " tsc=%ld", khz * 1000);
	if (!has_word(line, "vcpus="))
		snprintf(vcpus, sizeof(vcpus), " vcpus=%u", vmm->config.vcpus);
	return asprintf(out, "%s%s%s", line, tsc, vcpus) < 0 ? -ENOMEM : 0;
}

/* ---- modules --------------------------------------------------------------------------------- */

static int read_module(const char *string, uint64_t limit, struct loader_module *module)
{
	struct file f = {0};
	char *path = strndup(string, strcspn(string, " "));
	int err = path ? read_file(path, limit, &f) : -ENOMEM;

	free(path);
	*module = (struct loader_module){.string = string, .data = f.data, .size = f.size};
	return err;
}

static int load_modules(const struct vmm *vmm, const char *const *strings,
			struct loader_image *image, struct loader_entry *entry)
{
	struct loader_memory memory = {
		.low = vmm->regions[0].base,
		.low_size = vmm->regions[0].size,
		.high_size = vmm->region_count > 1 ? vmm->regions[1].size : 0,
	};
	struct loader_module *modules = calloc(image->module_count + 1, sizeof(*modules));
	int err = modules ? 0 : -ENOMEM;

	for (unsigned int i = 0; !err && i < image->module_count; i++)
		err = read_module(strings[i], memory.low_size, &modules[i]);
	if (!err) {
		image->modules = modules;
		err = loader_load(&memory, image, entry);
	}
	for (unsigned int i = 0; modules && i < image->module_count; i++)
		free((void *)modules[i].data);
	free(modules);
	return err;
}

/* ---- the entry state ------------------------------------------------------------------------- */

static void set_segment(struct kvm_segment *s, uint16_t selector, uint8_t type)
{
	*s = (struct kvm_segment){
		.limit = 0xffffffff,
		.selector = selector,
		.type = type,
		.present = 1,
		.db = 1,
		.s = 1,
		.g = 1,
	};
}

static int set_entry(const struct vmm *vmm, const struct loader_entry *entry)
{
	int fd = vmm->vcpu[0].fd;
	struct kvm_regs regs = {
		.rax = MULTIBOOT_MAGIC_EAX,
		.rbx = entry->ebx,
		.rip = entry->eip,
		.rflags = RFLAGS_ALWAYS1,
	};
	struct kvm_sregs sregs;
	int err;

	if (ioctl(fd, KVM_GET_SREGS, &sregs) < 0)
		goto err_ioctl;
	set_segment(&sregs.cs, CODE_SELECTOR, CODE_TYPE);
	set_segment(&sregs.ds, DATA_SELECTOR, DATA_TYPE);
	sregs.es = sregs.fs = sregs.gs = sregs.ss = sregs.ds;
	sregs.cr0 = CR0_PE | CR0_ET;
	sregs.cr4 = 0;
	sregs.efer = 0;
	sregs.gdt.limit = 0;
	sregs.idt.limit = 0;
	if (ioctl(fd, KVM_SET_SREGS, &sregs) < 0 || ioctl(fd, KVM_SET_REGS, &regs) < 0)
		goto err_ioctl;
	return 0;

err_ioctl:
	err = -errno;
	vmm_error("vcpu 0: cannot set the entry state: %s", strerror(-err));
	return err;
}

int vmm_boot(struct vmm *vmm, const char *file, const char *command_line,
	     const char *const *modules, unsigned int module_count)
{
	const char *line = command_line ? command_line : "";
	struct loader_image image = {
		.name = file ? file : "built-in",
		.data = guest_image,
		.size = guest_image_size,
		.command_line = line,
		.module_count = module_count,
	};
	struct loader_entry entry;
	const struct vmferry_blob *spec;
	struct file f = {0};
	char *own = NULL;
	int err;

	if (vmm->booted || module_count > LOADER_MODULES_MAX) {
		vmm_error("guest %s: cannot be booted: %s", image.name,
			  vmm->booted ? "the machine has a guest already" : "too many modules");
		return -EINVAL;
	}
	if (file) {
		err = read_file(file, vmm->regions[0].size, &f);
		image.data = f.data;
		image.size = f.size;
	} else {
		err = complete_line(vmm, line, &own);
		image.command_line = own;
	}
	if (!err)
		err = load_modules(vmm, modules, &image, &entry);
	if (!err)
		err = set_entry(vmm, &entry);
	free(own);
	free(f.data);
	if (err)
		return err;
	vmm->booted = true;
	/* Now it costs no pause. A failure is told now, and again should the guest be migrated. */
	vmm_kvm_spec(vmm, &spec);
	return 0;
}
