/* SPDX-License-Identifier: MIT */
/*
 * The machine's state: records of a type, an index, a length and bytes. Each vCPU's thread saves
 * and loads its own.
 */
#include <errno.h>
#include <string.h>

#include <vmferry/kvm.h>

#include "codec.h"
#include "log.h"
#include "state.h"

#define STATE_MAGIC 0x54464d56u /* "VMFT" */
#define STATE_NS    (5 * NS_PER_S)

enum record_type {
	RECORD_MACHINE = 1, /* u32: ready */
	RECORD_VCPU,	    /* u32: was beating; then the library's */
	RECORD_VM,	    /* the library's */
};

static int put_record(struct vmferry_blob *out, enum record_type type, uint32_t index,
		      size_t length)
{
	int err = put_u32(out, type);

	if (!err)
		err = put_u32(out, index);
	return err ? err : put_u32(out, (uint32_t)length);
}

static int put_blob(struct vmferry_blob *out, const struct vmferry_blob *blob)
{
	return vmferry_blob_append(out, vmferry_blob_data(blob), vmferry_blob_size(blob));
}

/* ---- saving ---------------------------------------------------------------------------------- */

static void begin_locked(struct vmm *vmm)
{
	if (vmm->saving)
		return;
	vmm->saving = true;
	vcpus_post(vmm, VCPU_SAVE);
}

void state_save_begin(struct vmm *vmm)
{
	pthread_mutex_lock(&vmm->control);
	begin_locked(vmm);
	pthread_mutex_unlock(&vmm->control);
}

static int first_result(const struct vmm *vmm)
{
	for (unsigned int i = 0; i < vmm->config.vcpus; i++) {
		if (vmm->vcpu[i].result)
			return vmm->vcpu[i].result;
	}
	return 0;
}

static int gather_vcpus(struct vmm *vmm)
{
	int err;

	pthread_mutex_lock(&vmm->control);
	if (command_of(atomic_load(&vmm->word)) == VCPU_RUN) {
		pthread_mutex_unlock(&vmm->control);
		vmm_error("guest: cannot save its state: it is not paused");
		return -EBUSY;
	}
	begin_locked(vmm);
	err = vcpus_wait(vmm, vmferry_now() + STATE_NS);
	vmm->saving = false;
	pthread_mutex_unlock(&vmm->control);
	return err ? err : first_result(vmm);
}

int state_warm_up(struct vmm *vmm)
{
	return gather_vcpus(vmm);
}

static int put_vcpu(const struct vcpu *v, struct vmferry_blob *out)
{
	bool beating = atomic_load_explicit(&v->beats, memory_order_relaxed) > 0;
	int err = put_record(out, RECORD_VCPU, v->index,
			     sizeof(uint32_t) + vmferry_blob_size(v->state));

	if (!err)
		err = put_u32(out, beating || v->was_beating);
	return err ? err : put_blob(out, v->state);
}

static int put_vm(const struct vmm *vmm, struct vmferry_blob *out)
{
	struct vmferry_blob *vm = NULL;
	int err = vmferry_blob_new(&vm);

	if (!err)
		err = vmferry_kvm_save_vm(vmm->vm_fd, vm);
	if (!err)
		err = put_record(out, RECORD_VM, 0, vmferry_blob_size(vm));
	if (!err)
		err = put_blob(out, vm);
	vmferry_blob_free(&vm);
	return err;
}

int state_save(struct vmm *vmm, struct vmferry_blob *out)
{
	int err = gather_vcpus(vmm);

	if (!err)
		err = put_u32(out, STATE_MAGIC);
	if (!err)
		err = put_record(out, RECORD_MACHINE, 0, sizeof(uint32_t));
	if (!err)
		err = put_u32(out, atomic_load(&vmm->ready));
	for (unsigned int i = 0; !err && i < vmm->config.vcpus; i++)
		err = put_vcpu(&vmm->vcpu[i], out);
	if (!err)
		err = put_vm(vmm, out);
	return err;
}

/* ---- loading --------------------------------------------------------------------------------- */

struct loaded {
	struct {
		struct reader bytes;
		bool beating;
	} vcpu[VMM_VCPUS_MAX];
	struct reader vm;
	bool machine;
	bool ready;
};

static bool take_record(const struct vmm *vmm, struct reader *r, struct loaded *l)
{
	uint32_t type = read_u32(r);
	uint32_t index = read_u32(r);
	uint32_t length = read_u32(r);
	struct reader body = {.left = length};

	body.at = read_bytes(r, length);
	if (r->failed)
		return false;
	switch (type) {
	case RECORD_MACHINE:
		l->ready = read_u32(&body) != 0;
		l->machine = true;
		return !body.failed && index == 0;
	case RECORD_VCPU:
		if (index >= vmm->config.vcpus || l->vcpu[index].bytes.at)
			return false;
		l->vcpu[index].beating = read_u32(&body) != 0;
		l->vcpu[index].bytes = body;
		return !body.failed;
	case RECORD_VM:
		if (index || l->vm.at)
			return false;
		l->vm = body;
		return true;
	default:
		return false;
	}
}

static int parse(const struct vmm *vmm, const void *data, size_t length, struct loaded *l)
{
	struct reader r = {.at = data, .left = length};
	bool sound = read_u32(&r) == STATE_MAGIC;

	memset(l, 0, sizeof(*l));
	while (sound && r.left)
		sound = take_record(vmm, &r, l);
	sound &= l->machine && l->vm.at;
	for (unsigned int i = 0; i < vmm->config.vcpus; i++)
		sound &= l->vcpu[i].bytes.at != NULL;
	if (sound)
		return 0;
	vmm_error(
		"arrival: the machine's state makes no sense: use the same version on both hosts");
	return -EPROTO;
}

/* A copy, because a thread that is late must not find the caller's bytes gone. */
static int give_vcpu(struct vcpu *v, const struct reader *bytes)
{
	int err;

	vmferry_blob_free(&v->state);
	err = vmferry_blob_new(&v->state);
	return err ? err : vmferry_blob_append(v->state, bytes->at, bytes->left);
}

static int load_vcpus(struct vmm *vmm)
{
	int err;

	pthread_mutex_lock(&vmm->control);
	vcpus_post(vmm, VCPU_LOAD);
	err = vcpus_wait(vmm, vmferry_now() + STATE_NS);
	pthread_mutex_unlock(&vmm->control);
	return err ? err : first_result(vmm);
}

int state_load(struct vmm *vmm, const void *data, size_t length)
{
	struct loaded l;
	int err = parse(vmm, data, length, &l);

	for (unsigned int i = 0; !err && i < vmm->config.vcpus; i++) {
		vmm->vcpu[i].was_beating = l.vcpu[i].beating;
		err = give_vcpu(&vmm->vcpu[i], &l.vcpu[i].bytes);
	}
	/*
	 * vCPUs first: loading the IOAPIC may raise an interrupt, which a LAPIC loaded later would
	 * forget.
	 */
	if (!err)
		err = load_vcpus(vmm);
	if (!err)
		err = vmferry_kvm_load_vm(vmm->vm_fd, l.vm.at, l.vm.left);
	if (err)
		return err;
	atomic_store(&vmm->ready, l.ready);
	vmm->booted = true;
	return 0;
}
