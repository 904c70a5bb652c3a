/* SPDX-License-Identifier: MIT */
/* The smallest program on each layer of libvmferry: as C and as C++. It prints the version. */
#include <stdio.h>
#include <string.h>

#include <vmferry/kvm.h>
#include <vmferry/migration.h>
#include <vmferry/rdma.h>
#include <vmferry/transport.h>
#include <vmferry/vmferry.h>

int main(void)
{
	struct vmferry_transport_options options;
	struct vmferry_listener *listener = NULL;
	struct vmferry_source *source = NULL;
	uint32_t entries;

	memset(&options, 0, sizeof(options));
	options.size = sizeof(options);
	if (vmferry_listen("tcp:127.0.0.1:0", &options, &listener) != 0)
		return 1;
	vmferry_listener_close(&listener);
	vmferry_source_free(&source);
	if (vmferry_kvm_enable_ring(-1, 0, &entries) == 0 ||
	    vmferry_phase_name(VMFERRY_SETUP) == NULL)
		return 1;
	puts(vmferry_version());
	return 0;
}
