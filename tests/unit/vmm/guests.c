/* SPDX-License-Identifier: MIT */
/* See guests.h. 32-bit code behind a multiboot header with address fields, at 1 MiB. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <unistd.h>

#include "guests.h"
#include "image.h"
#include "quiet.h"

#define WAIT_NS 10000000000ull
#define LOOK_US 500

static const uint8_t ticker[] = {
	0xbe, 0x00, 0x00, 0x00, 0x00,	    /* mov esi, 0 */
	0xb0, 'h',  0xe6, 0xe9,		    /* mov al, 'h'; out 0xe9, al */
	0xb0, 'i',  0xe6, 0xe9,		    /* */
	0xb0, '\n', 0xe6, 0xe9,		    /* */
	0xb0, 'R',  0xe6, 0xeb,		    /* mov al, 'R'; out 0xeb, al */
	0xff, 0x05, 0x00, 0x00, 0x20, 0x00, /* again: inc dword [COUNTER] */
	0x46,				    /* inc esi */
	0x3b, 0x35, 0x00, 0x00, 0x20, 0x00, /* cmp esi, [COUNTER] */
	0x74, 0x04,			    /* je beat */
	0xb0, 'F',  0xe6, 0xeb,		    /* mov al, 'F'; out 0xeb, al */
	0xe6, 0xea,			    /* beat: out 0xea, al */
	0xeb, 0xe9,			    /* jmp again */
};

static const uint8_t halted[] = {
	0xb0, 'R',  0xe6, 0xeb, /* mov al, 'R'; out 0xeb, al */
	0xf4,			/* halt: hlt */
	0xeb, 0xfd,		/* jmp halt */
};

static const uint8_t entry[] = {
	0xa3, 0x00, 0x00, 0x20, 0x00,	    /* mov [COUNTER], eax */
	0x89, 0x1d, 0x04, 0x00, 0x20, 0x00, /* mov [COUNTER + 4], ebx */
	0xe4, 0xf0,			    /* in al, 0xf0 */
	0xa2, 0x08, 0x00, 0x20, 0x00,	    /* mov [COUNTER + 8], al */
	0xb0, 'R',  0xe6, 0xeb,		    /* mov al, 'R'; out 0xeb, al */
	0xf4,				    /* halt: hlt */
	0xeb, 0xfd,			    /* jmp halt */
};

/*
 * The OUT is for PVM, which interprets ring 0: without an exit now and then it would push more
 * entries to a dirty ring between two looks at how full that is than the ring keeps in reserve.
 */
static const uint8_t writer[] = {
	0xbf, 0x00, 0x00, 0x40, 0x00,	    /* again: mov edi, 4 MiB */
	0x89, 0x0f,			    /* page: mov [edi], ecx */
	0xe6, 0xf0,			    /* out 0xf0, al */
	0x81, 0xc7, 0x00, 0x10, 0x00, 0x00, /* add edi, 4096 */
	0x81, 0xff, 0x00, 0x00, 0x40, 0x01, /* cmp edi, 20 MiB */
	0x72, 0xee,			    /* jb page */
	0xe6, 0xea,			    /* out 0xea, al */
	0xeb, 0xe5,			    /* jmp again */
};

static const uint8_t faulty[] = {
	0x0f, 0x0b, /* ud2, and there is no IDT */
};

static const struct {
	const uint8_t *code;
	size_t size;
} guests[] = {
	[GUEST_TICKER] = {ticker, sizeof(ticker)}, [GUEST_HALTED] = {halted, sizeof(halted)},
	[GUEST_ENTRY] = {entry, sizeof(entry)},	   [GUEST_WRITER] = {writer, sizeof(writer)},
	[GUEST_FAULTY] = {faulty, sizeof(faulty)},
};

void need_kvm(void)
{
	if (access("/dev/kvm", R_OK | W_OK) != 0)
		cr_skip_test("no /dev/kvm");
}

struct vmm_config small_config(void)
{
	return (struct vmm_config){
		.memory = 32ull << 20,
		.vcpus = 1,
		.numa_node = -1,
		.console_fd = -1,
	};
}

static void write_guest(int fd, enum guest_kind kind)
{
	struct flat_image image = flat_image();

	cr_assert_leq(guests[kind].size, sizeof(image.payload));
	memcpy(image.payload, guests[kind].code, guests[kind].size);
	cr_assert_eq(write(fd, &image, sizeof(image)), sizeof(image));
	close(fd);
}

struct vmm *boot_guest(const struct vmm_config *config, enum guest_kind kind)
{
	char path[] = "/tmp/vmferry-test-guest-XXXXXX";
	int fd = mkstemp(path);
	struct vmm *vmm;

	quiet();
	cr_assert_geq(fd, 0);
	write_guest(fd, kind);
	cr_assert_eq(vmm_new(config, &vmm), 0, "%s", last_line());
	cr_assert_eq(vmm_boot(vmm, path, "one two=2", NULL, 0), 0, "%s", last_line());
	unlink(path);
	return vmm;
}

struct vmm_status status_of(const struct vmm *vmm)
{
	struct vmm_status status;

	vmm_status(vmm, &status);
	return status;
}

static bool beaten(const struct vmm *vmm, const struct vmm_status *from, uint64_t beats)
{
	struct vmm_status now = status_of(vmm);

	cr_assert_not(now.stopped, "%s", now.stop_reason);
	for (unsigned int i = 0; i < now.vcpus; i++) {
		if (now.pulse[i].beats < from->pulse[i].beats + beats)
			return false;
	}
	return true;
}

void wait_beats(const struct vmm *vmm, uint64_t beats)
{
	struct vmm_status from = status_of(vmm);
	uint64_t deadline = vmferry_now() + WAIT_NS;

	while (!beaten(vmm, &from, beats)) {
		cr_assert_lt(vmferry_now(), deadline, "no beats");
		usleep(LOOK_US);
	}
}

void wait_ready(const struct vmm *vmm)
{
	uint64_t deadline = vmferry_now() + WAIT_NS;

	while (!status_of(vmm).ready) {
		cr_assert_not(status_of(vmm).stopped, "%s", status_of(vmm).stop_reason);
		cr_assert_lt(vmferry_now(), deadline, "never ready");
		usleep(LOOK_US);
	}
}

void wait_stopped(const struct vmm *vmm)
{
	uint64_t deadline = vmferry_now() + WAIT_NS;

	while (!status_of(vmm).stopped) {
		cr_assert_lt(vmferry_now(), deadline, "never stopped");
		usleep(LOOK_US);
	}
}

uint32_t guest_word(const struct vmm *vmm, uint32_t address)
{
	struct vmferry_vm vm;
	uint32_t word;

	vmm_describe_vm(vmm, &vm);
	memcpy(&word, (const uint8_t *)vm.regions[0].base + address, sizeof(word));
	return word;
}
