/* SPDX-License-Identifier: MIT */
/*
 * MSRs of a vCPU. KVM_GET_MSRS and KVM_SET_MSRS stop at the first MSR that they cannot handle
 * and return its position: that one is skipped or refused by name, and the rest goes on behind
 * it.
 */
#include "msrs.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <common/log.h>

#include "parts.h"

/* The kernel's MAX_IO_MSRS is 256, and that many are already -E2BIG. */
#define MSR_BATCH 255u

union msr_batch {
	struct kvm_msrs head;
	uint8_t bytes[sizeof(struct kvm_msrs) + MSR_BATCH * sizeof(struct kvm_msr_entry)];
};

struct msr_range {
	uint32_t first;
	uint32_t last;
};

/*
 * State that KVM keeps but does not list: the MTRRs; PAT and TSC_DEADLINE are listed by some
 * kernels only.
 */
static const struct msr_range unlisted[] = {
	{0x200, 0x20f}, {0x250, 0x250}, {0x258, 0x259},
	{0x268, 0x26f}, {0x277, 0x277}, {MSR_TSC_DEADLINE, MSR_TSC_DEADLINE},
};

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static struct msr_list *the_list; /* set once under list_lock, never freed */

bool msr_list_has(const struct msr_list *list, uint32_t index)
{
	for (size_t i = 0; i < list->count; i++)
		if (list->index[i] == index)
			return true;
	return false;
}

static void list_add(struct msr_list *list, uint32_t index)
{
	if (!msr_list_has(list, index))
		list->index[list->count++] = index;
}

static size_t unlisted_count(void)
{
	size_t n = 0;

	for (size_t i = 0; i < sizeof(unlisted) / sizeof(unlisted[0]); i++)
		n += unlisted[i].last - unlisted[i].first + 1;
	return n;
}

static int list_build(const struct kvm_msr_list *kernel, struct msr_list **list)
{
	size_t room = kernel->nmsrs + unlisted_count();
	struct msr_list *l = calloc(1, sizeof(*l) + room * sizeof(l->index[0]));

	if (l == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < kernel->nmsrs; i++)
		if (kernel->indices[i] != MSR_TSC_DEADLINE)
			list_add(l, kernel->indices[i]);
	for (size_t i = 0; i < sizeof(unlisted) / sizeof(unlisted[0]); i++)
		for (uint32_t m = unlisted[i].first; m <= unlisted[i].last; m++)
			list_add(l, m);
	*list = l;
	return 0;
}

static int list_query(int kvm_fd, struct msr_list **list)
{
	struct kvm_msr_list probe = {0};
	struct kvm_msr_list *kernel;
	int e = kvm_ioctl(kvm_fd, KVM_GET_MSR_INDEX_LIST, &probe);

	if (e < 0 && e != -E2BIG) {
		log_error("kvm fd %d: KVM_GET_MSR_INDEX_LIST: %s", kvm_fd, strerror(-e));
		return e;
	}
	kernel = calloc(1, sizeof(*kernel) + probe.nmsrs * sizeof(kernel->indices[0]));
	if (kernel == NULL)
		return -ENOMEM;
	kernel->nmsrs = probe.nmsrs;
	e = kvm_ioctl(kvm_fd, KVM_GET_MSR_INDEX_LIST, kernel);
	if (e < 0)
		log_error("kvm fd %d: KVM_GET_MSR_INDEX_LIST: %s", kvm_fd, strerror(-e));
	else
		e = list_build(kernel, list);
	free(kernel);
	return e;
}

static int list_query_device(struct msr_list **list)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int e;

	if (fd < 0) {
		e = -errno;
		log_error("/dev/kvm: open: %s: describe the vm before access to it is given up",
			  strerror(-e));
		return e;
	}
	e = list_query(fd, list);
	close(fd);
	return e;
}

int msr_list_get(int kvm_fd, const struct msr_list **list)
{
	int e = 0;

	pthread_mutex_lock(&list_lock);
	if (the_list == NULL)
		e = kvm_fd < 0 ? list_query_device(&the_list) : list_query(kvm_fd, &the_list);
	if (e == 0)
		*list = the_list;
	pthread_mutex_unlock(&list_lock);
	return e;
}

static size_t batch_size(size_t left)
{
	return left < MSR_BATCH ? left : MSR_BATCH;
}

static int read_batch(int vcpu_fd, const uint32_t *index, size_t count, union msr_batch *b)
{
	int r;

	b->head = (struct kvm_msrs){.nmsrs = (uint32_t)count};
	for (size_t i = 0; i < count; i++)
		b->head.entries[i] = (struct kvm_msr_entry){.index = index[i]};
	r = kvm_ioctl(vcpu_fd, KVM_GET_MSRS, b);
	if (r < 0)
		log_error("vcpu fd %d: KVM_GET_MSRS: %s", vcpu_fd, strerror(-r));
	return r;
}

int msrs_read(int vcpu_fd, const struct msr_list *list, struct kvm_msr_entry *entries)
{
	union msr_batch b;
	size_t done = 0;
	int count = 0;

	while (done < list->count) {
		size_t n = batch_size(list->count - done);
		int r = read_batch(vcpu_fd, &list->index[done], n, &b);

		if (r < 0)
			return r;
		memcpy(&entries[count], b.head.entries, (size_t)r * sizeof(*entries));
		count += r;
		/* A vCPU without the feature has no such MSR: entry r is the one. */
		done += (size_t)r < n ? (size_t)r + 1 : n;
	}
	return count;
}

/*
 * Moves the entry of @index to position @to; the others keep their order but for the one it
 * changes places with.
 */
static void place(struct kvm_msr_entry *entries, size_t count, uint32_t index, size_t to)
{
	for (size_t i = 0; i < count; i++) {
		struct kvm_msr_entry e = entries[i];

		if (e.index != index)
			continue;
		entries[i] = entries[to];
		entries[to] = e;
		return;
	}
}

/* The kernel refused to set @entry: 0 if nothing is lost by that. */
static int judge_refused(int vcpu_fd, const struct kvm_msr_entry *entry)
{
	union msr_batch b;

	if (read_batch(vcpu_fd, &entry->index, 1, &b) == 1 && b.head.entries[0].data == entry->data)
		return 0;
	if (entry->data == 0) {
		log_warn("vcpu fd %d: msr 0x%x: kvm refuses to set it: it is zero, so left out",
			 vcpu_fd, entry->index);
		return 0;
	}
	log_error("vcpu fd %d: msr 0x%x: kvm refuses the value 0x%llx: use a host with the same "
		  "processor features",
		  vcpu_fd, entry->index, (unsigned long long)entry->data);
	return -ENOTSUP;
}

static int write_batch(int vcpu_fd, const struct kvm_msr_entry *entries, size_t count)
{
	union msr_batch b;
	int r;

	b.head = (struct kvm_msrs){.nmsrs = (uint32_t)count};
	memcpy(b.head.entries, entries, count * sizeof(*entries));
	r = kvm_ioctl(vcpu_fd, KVM_SET_MSRS, &b);
	if (r < 0)
		log_error("vcpu fd %d: KVM_SET_MSRS: %s", vcpu_fd, strerror(-r));
	return r;
}

int msrs_write(int vcpu_fd, struct kvm_msr_entry *entries, size_t count)
{
	size_t done = 0;

	if (count == 0)
		return 0;
	/* A deadline is armed against the TSC as it is at that moment. */
	place(entries, count, MSR_TSC, 0);
	place(entries, count, MSR_TSC_DEADLINE, count - 1);
	while (done < count) {
		size_t n = batch_size(count - done);
		int r = write_batch(vcpu_fd, &entries[done], n);

		if (r < 0)
			return r;
		done += (size_t)r;
		if ((size_t)r == n)
			continue;
		r = judge_refused(vcpu_fd, &entries[done]);
		if (r < 0)
			return r;
		done++;
	}
	return 0;
}
