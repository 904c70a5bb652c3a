/* SPDX-License-Identifier: MIT */
/*
 * Names of CPUID feature bits, as /proc/cpuinfo and QEMU spell them, so that a user can mask
 * what a message names.
 */
#include "cpuid.h"

#include <string.h>

/* The names of the bits from bit 0 on, with blanks between; "-" has no name. */
struct bit_names {
	uint32_t leaf;
	uint32_t sub;
	unsigned int reg;
	const char *names;
};

static const struct bit_names tables[] = {
	{0x1, 0, CPUID_ECX,
	 "sse3 pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr pdcm "
	 "- pcid dca sse4_1 sse4_2 x2apic movbe popcnt tsc_deadline aes xsave osxsave avx f16c "
	 "rdrand hypervisor"},
	{0x1, 0, CPUID_EDX,
	 "fpu vme de pse tsc msr pae mce cx8 apic - sep mtrr pge mca cmov pat pse36 pn clflush - "
	 "ds acpi mmx fxsr sse sse2 ss ht tm ia64 pbe"},
	{0x7, 0, CPUID_EBX,
	 "fsgsbase tsc_adjust sgx bmi1 hle avx2 fdp_excptn_only smep bmi2 erms invpcid rtm cqm "
	 "zero_fcs_fds mpx rdt_a avx512f avx512dq rdseed adx smap avx512ifma pcommit clflushopt "
	 "clwb intel_pt avx512pf avx512er avx512cd sha_ni avx512bw avx512vl"},
	{0x7, 0, CPUID_ECX,
	 "prefetchwt1 avx512vbmi umip pku ospke waitpkg avx512_vbmi2 shstk gfni vaes vpclmulqdq "
	 "avx512_vnni avx512_bitalg tme avx512_vpopcntdq - la57 - - - - - rdpid keylocker "
	 "bus_lock_detect cldemote - movdiri movdir64b enqcmd sgx_lc pks"},
	{0x7, 0, CPUID_EDX,
	 "- sgx_keys avx512_4vnniw avx512_4fmaps fsrm uintr - - avx512_vp2intersect srbds_ctrl "
	 "md_clear rtm_always_abort - tsx_force_abort serialize hybrid tsxldtrk - pconfig arch_lbr "
	 "ibt - amx_bf16 avx512_fp16 amx_tile amx_int8 spec_ctrl stibp flush_l1d arch_capabilities "
	 "core_capabilities ssbd"},
	{0x7, 1, CPUID_EAX,
	 "sha512 sm3 sm4 rao_int avx_vnni avx512_bf16 lass cmpccxadd arch_perfmon_ext - fzrm fsrs "
	 "fsrc - - - - fred lkgs wrmsrns nmi_source amx_fp16 hreset avx_ifma - - lam msrlist"},
	{0x7, 1, CPUID_EDX,
	 "- - - - avx_vnni_int8 avx_ne_convert - - amx_complex - avx_vnni_int16 - - - prefetchiti "
	 "- - - - avx10"},
	{0x7, 2, CPUID_EDX, "psfd ipred_ctrl rrsba_ctrl ddpd_u bhi_ctrl mcdt_no"},
	{0xd, 0, CPUID_EAX,
	 "xcr0_x87 xcr0_sse xcr0_avx xcr0_bndregs xcr0_bndcsr xcr0_opmask xcr0_zmm_hi256 "
	 "xcr0_hi16_zmm - xcr0_pkru - - - - - - - xcr0_xtilecfg xcr0_xtiledata"},
	{0xd, 1, CPUID_EAX, "xsaveopt xsavec xgetbv1 xsaves xfd"},
	{0x40000001, 0, CPUID_EAX,
	 "kvmclock kvm_nopiodelay kvm_mmu kvmclock2 kvm_asyncpf kvm_steal_time kvm_pv_eoi "
	 "kvm_pv_unhalt - kvm_pv_tlb_flush kvm_asyncpf_vmexit kvm_pv_ipi kvm_poll_control "
	 "kvm_pv_sched_yield kvm_asyncpf_int - - - - - - - - - kvmclock_stable"},
	{0x80000001, 0, CPUID_ECX,
	 "lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw ibs "
	 "xop skinit wdt - lwp fma4 tce - nodeid_msr - tbm topoext perfctr_core perfctr_nb - bpext "
	 "ptsc perfctr_llc mwaitx"},
	{0x80000001, 0, CPUID_EDX,
	 "fpu vme de pse tsc msr pae mce cx8 apic - syscall mtrr pge mca cmov pat pse36 - mp nx - "
	 "mmxext mmx fxsr fxsr_opt pdpe1gb rdtscp - lm 3dnowext 3dnow"},
	{0x80000007, 0, CPUID_EDX, "- - - - - - - - invtsc"},
	{0x80000008, 0, CPUID_EBX,
	 "clzero irperf xsaveerptr - rdpru - - - - wbnoinvd - - ibpb - ibrs amd_stibp ibrs_always "
	 "stibp_always - - - - - ppin amd_ssbd virt_ssbd amd_no_ssb - amd_psfd"},
	{0x8000000a, 0, CPUID_EDX,
	 "npt lbrv svm_lock nrip_save tsc_scale vmcb_clean flushbyasid decodeassists - - "
	 "pause_filter - pfthreshold avic - v_vmsave_vmload vgif"},
	{0x80000021, 0, CPUID_EAX,
	 "no_nested_data_bp - lfence_always_serializing - - verw_clear null_sel_clr_base - "
	 "auto_ibrs no_smm_ctl_msr - - - - - - - - - - - - - - - - - sbpb ibpb_brtype srso_no"},
};

static const char *find_names(uint32_t leaf, uint32_t sub, unsigned int reg)
{
	for (size_t i = 0; i < sizeof(tables) / sizeof(tables[0]); i++) {
		const struct bit_names *t = &tables[i];

		if (t->leaf == leaf && t->sub == sub && t->reg == reg)
			return t->names;
	}
	return NULL;
}

const char *cpuid_bit_name(uint32_t leaf, uint32_t sub, unsigned int reg, unsigned int bit,
			   char name[32])
{
	const char *at = find_names(leaf, sub, reg);
	size_t length;

	while (at != NULL && bit-- > 0) {
		at = strchr(at, ' ');
		if (at != NULL)
			at++;
	}
	if (at == NULL || *at == '-')
		return NULL;
	length = strcspn(at, " ");
	if (length > 31)
		length = 31;
	memcpy(name, at, length);
	name[length] = '\0';
	return name;
}
