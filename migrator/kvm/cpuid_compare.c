/* SPDX-License-Identifier: MIT */
/*
 * Whether a guest's CPUID can be kept on a host. Registers of feature bits must be a subset,
 * bit by bit; some fields are numbers or layouts; and some leaves only describe caches,
 * topology or names, which KVM shows as it is told.
 */
#include "cpuid.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SUB_COMPONENT 2u /* a rule of this subleaf holds for all that follow, too */

enum rule_kind {
	RULE_BITS,   /* the guest's bits must be a subset of the host's */
	RULE_NUMBER, /* the guest's number must not be greater */
	RULE_EQUAL,  /* must be equal where the guest has something at all */
};

/* A register may have several rules; one with none at all is feature bits. */
struct rule {
	uint32_t leaf;
	uint32_t sub;
	unsigned int reg;
	enum rule_kind kind;
	uint32_t mask; /* the bits that it speaks of; bits of no rule are free */
	const char *name;
};

static const struct rule rules[] = {
	{0x0, 0, CPUID_EAX, RULE_NUMBER, ~0u, "highest basic leaf"},
	/* The vendor has its own check. */
	{0x0, 0, CPUID_EBX, RULE_BITS, 0, NULL},
	{0x0, 0, CPUID_ECX, RULE_BITS, 0, NULL},
	{0x0, 0, CPUID_EDX, RULE_BITS, 0, NULL},
	/* Family and model, APIC id: as the VMM says. */
	{0x1, 0, CPUID_EAX, RULE_BITS, 0, NULL},
	{0x1, 0, CPUID_EBX, RULE_BITS, 0, NULL},
	/* osxsave mirrors CR4, hypervisor is true everywhere; apic and ht are the VMM's. */
	{0x1, 0, CPUID_ECX, RULE_BITS, ~(1u << 27 | 1u << 31), NULL},
	{0x1, 0, CPUID_EDX, RULE_BITS, ~(1u << 9 | 1u << 28), NULL},
	/* Number of subleaves: what matters is in them. */
	{0x7, 0, CPUID_EAX, RULE_BITS, 0, NULL},
	{0x7, 0, CPUID_ECX, RULE_BITS, ~(1u << 4), NULL}, /* ospke mirrors CR4 */
	{0xa, 0, CPUID_EAX, RULE_NUMBER, 0x000000ff, "pmu version"},
	{0xa, 0, CPUID_EAX, RULE_NUMBER, 0x0000ff00, "number of pmu counters"},
	{0xa, 0, CPUID_EAX, RULE_NUMBER, 0x00ff0000, "width of pmu counters"},
	/* A set bit says that an event is missing. */
	{0xa, 0, CPUID_EBX, RULE_BITS, 0, NULL},
	{0xa, 0, CPUID_EDX, RULE_NUMBER, 0x0000001f, "number of fixed pmu counters"},
	{0xa, 0, CPUID_EDX, RULE_NUMBER, 0x00001fe0, "width of fixed pmu counters"},
	{0xd, 0, CPUID_EBX, RULE_BITS, 0, NULL}, /* mirrors XCR0 */
	{0xd, 0, CPUID_ECX, RULE_NUMBER, ~0u, "size of the xsave area"},
	{0xd, 1, CPUID_EBX, RULE_BITS, 0, NULL}, /* mirrors XCR0 and XSS */
	{0xd, SUB_COMPONENT, CPUID_EAX, RULE_EQUAL, ~0u, "size of an xsave component"},
	{0xd, SUB_COMPONENT, CPUID_EBX, RULE_EQUAL, ~0u, "offset of an xsave component"},
	{0xd, SUB_COMPONENT, CPUID_ECX, RULE_BITS, 0, NULL},
	{0xd, SUB_COMPONENT, CPUID_EDX, RULE_BITS, 0, NULL},
	{0x24, 0, CPUID_EAX, RULE_BITS, 0, NULL},
	{0x24, 0, CPUID_EBX, RULE_NUMBER, 0x000000ff, "avx10 version"},
	{0x24, 0, CPUID_EBX, RULE_BITS, 0xffffff00, NULL},
	/* The base leaf is a signature; bits 15 to 17 are promises of the VMM and not of KVM. */
	{0x40000000, 0, CPUID_EAX, RULE_BITS, 0, NULL},
	{0x40000000, 0, CPUID_EBX, RULE_BITS, 0, NULL},
	{0x40000000, 0, CPUID_ECX, RULE_BITS, 0, NULL},
	{0x40000000, 0, CPUID_EDX, RULE_BITS, 0, NULL},
	{0x40000001, 0, CPUID_EAX, RULE_BITS, ~(7u << 15), NULL},
	{0x40000001, 0, CPUID_EDX, RULE_BITS, 0, NULL}, /* hints */
	{0x80000000, 0, CPUID_EAX, RULE_NUMBER, ~0u, "highest extended leaf"},
	{0x80000000, 0, CPUID_EBX, RULE_BITS, 0, NULL},
	{0x80000000, 0, CPUID_ECX, RULE_BITS, 0, NULL},
	{0x80000000, 0, CPUID_EDX, RULE_BITS, 0, NULL},
	{0x80000001, 0, CPUID_EAX, RULE_BITS, 0, NULL},
	{0x80000001, 0, CPUID_EBX, RULE_BITS, 0, NULL},
	{0x80000001, 0, CPUID_ECX, RULE_BITS, ~(1u << 1), NULL}, /* cmp_legacy: topology */
	{0x80000001, 0, CPUID_EDX, RULE_BITS, ~(1u << 9), NULL},
	{0x80000008, 0, CPUID_EAX, RULE_NUMBER, 0x000000ff, "physical address bits"},
	{0x80000008, 0, CPUID_EAX, RULE_NUMBER, 0x0000ff00, "linear address bits"},
	{0x80000008, 0, CPUID_ECX, RULE_BITS, 0, NULL}, /* number of cores */
	{0x80000008, 0, CPUID_EDX, RULE_BITS, 0, NULL},
	{0x8000000a, 0, CPUID_EAX, RULE_BITS, 0, NULL},
	{0x8000000a, 0, CPUID_EBX, RULE_NUMBER, ~0u, "number of svm address space ids"},
	{0x8000001f, 0, CPUID_EBX, RULE_BITS, 0, NULL},
	{0x80000021, 0, CPUID_EBX, RULE_BITS, 0, NULL},
	{0x80000022, 0, CPUID_EBX, RULE_NUMBER, 0x0000000f, "number of pmu counters"},
};

/*
 * Caches, serial number, mwait and thermal hints, topology, frequencies, hypervisor leaves
 * beyond KVM's features, brand string, TLBs: they describe, nothing depends on the host for
 * them.
 */
static const struct {
	uint32_t first;
	uint32_t last;
} described[] = {
	{0x2, 0x6},
	{0x9, 0x9},
	{0xb, 0xb},
	{0x15, 0x18},
	{0x1a, 0x1a},
	{0x1f, 0x1f},
	{0x40000002, 0x4fffffff},
	{0x80000002, 0x80000006},
	{0x80000019, 0x8000001a},
	{0x8000001d, 0x8000001e},
	{0x80000026, 0x80000026},
	{0xc0000000, 0xc0000000},
};

static const char *const register_names[] = {"eax", "ebx", "ecx", "edx"};

__attribute__((format(printf, 3, 4))) static void
add_problem(struct vmferry_problems *problems, const char *remedy, const char *fmt, ...)
{
	char what[256];
	va_list args;

	va_start(args, fmt);
	vsnprintf(what, sizeof(what), fmt, args);
	va_end(args);
	vmferry_problems_add(problems, what, remedy);
}

static bool only_describes(uint32_t leaf)
{
	for (size_t i = 0; i < sizeof(described) / sizeof(described[0]); i++)
		if (leaf >= described[i].first && leaf <= described[i].last)
			return true;
	return false;
}

static bool rule_applies(const struct rule *r, uint32_t leaf, uint32_t sub, unsigned int reg)
{
	if (r->leaf != leaf || r->reg != reg)
		return false;
	return r->sub == sub || (r->sub == SUB_COMPONENT && sub > SUB_COMPONENT);
}

static void missing_bits(const struct kvm_cpuid_entry2 *e, unsigned int reg, uint32_t missing,
			 struct vmferry_problems *problems)
{
	char name[32];
	char remedy[128];

	for (unsigned int bit = 0; bit < 32; bit++) {
		const char *n = cpuid_bit_name(e->function, e->index, reg, bit, name);

		if (!(missing & 1u << bit))
			continue;
		if (n == NULL)
			n = "the bit";
		snprintf(remedy, sizeof(remedy),
			 "start the guest with %s masked, or use a host that has it", n);
		add_problem(
			problems, remedy,
			"cpuid: the guest has %s (leaf 0x%x.%u, %s, bit %u), this host does not", n,
			e->function, e->index, register_names[reg], bit);
	}
}

static void compare_number(const struct rule *r, const struct kvm_cpuid_entry2 *e, uint32_t guest,
			   uint32_t host, struct vmferry_problems *problems)
{
	unsigned int shift = (unsigned int)__builtin_ctz(r->mask);

	if ((guest & r->mask) <= (host & r->mask))
		return;
	add_problem(problems,
		    "start the guest with this host's number or less, or use another host",
		    "cpuid: %s (leaf 0x%x.%u, %s): the guest has 0x%x, this host 0x%x", r->name,
		    e->function, e->index, register_names[r->reg], (guest & r->mask) >> shift,
		    (host & r->mask) >> shift);
}

static void compare_equal(const struct rule *r, const struct kvm_cpuid_entry2 *e, uint32_t guest,
			  uint32_t host, struct vmferry_problems *problems)
{
	if (guest == 0 || guest == host)
		return;
	add_problem(
		problems,
		"start the guest with this part of xsave masked, or use a host of the same make",
		"cpuid: %s (leaf 0x%x.%u, %s): the guest has 0x%x, this host 0x%x", r->name,
		e->function, e->index, register_names[r->reg], guest, host);
}

static void compare_register(const struct kvm_cpuid_entry2 *guest,
			     const struct kvm_cpuid_entry2 *host, unsigned int reg,
			     struct vmferry_problems *problems)
{
	uint32_t g = cpuid_value(guest, reg);
	uint32_t h = host != NULL ? cpuid_value(host, reg) : 0;
	bool ruled = false;

	for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++) {
		const struct rule *r = &rules[i];

		if (!rule_applies(r, guest->function, guest->index, reg))
			continue;
		ruled = true;
		if (r->kind == RULE_BITS)
			missing_bits(guest, reg, g & ~h & r->mask, problems);
		else if (r->kind == RULE_NUMBER)
			compare_number(r, guest, g, h, problems);
		else
			compare_equal(r, guest, g, h, problems);
	}
	if (!ruled)
		missing_bits(guest, reg, g & ~h, problems);
}

/* The twelve letters of a vendor or hypervisor leaf. */
static void signature(const struct kvm_cpuid2 *cpuid, uint32_t leaf, bool vendor, char text[13])
{
	const struct kvm_cpuid_entry2 *e = cpuid_find(cpuid, leaf, 0);

	memset(text, 0, 13);
	if (e == NULL)
		return;
	memcpy(text, &e->ebx, 4);
	memcpy(text + 4, vendor ? &e->edx : &e->ecx, 4);
	memcpy(text + 8, vendor ? &e->ecx : &e->edx, 4);
	for (unsigned int i = 0; i < 12 && text[i] != '\0'; i++)
		if (text[i] < ' ' || text[i] > '~')
			text[i] = '?';
}

static void compare_vendor(const struct kvm_cpuid2 *guest, const struct kvm_cpuid2 *host,
			   struct vmferry_problems *problems)
{
	char g[13];
	char h[13];

	signature(guest, 0, true, g);
	signature(host, 0, true, h);
	if (strcmp(g, h) != 0)
		add_problem(problems, "use a host with a processor of the same vendor",
			    "cpuid: vendor: the guest has \"%s\", this host \"%s\"", g, h);
}

/* Under another hypervisor's signature, 0x40000001 has nothing to do with KVM's features. */
static bool has_kvm_leaves(const struct kvm_cpuid2 *guest)
{
	char text[13];

	signature(guest, 0x40000000, false, text);
	return strcmp(text, "KVMKVMKVM") == 0;
}

void cpuid_compare(const struct kvm_cpuid2 *guest, const struct kvm_cpuid2 *host,
		   struct vmferry_problems *problems)
{
	bool kvm_leaves = has_kvm_leaves(guest);

	compare_vendor(guest, host, problems);
	for (uint32_t i = 0; i < guest->nent; i++) {
		const struct kvm_cpuid_entry2 *e = &guest->entries[i];
		const struct kvm_cpuid_entry2 *h = cpuid_find(host, e->function, e->index);

		if (only_describes(e->function) || (e->function == 0x40000001 && !kvm_leaves))
			continue;
		for (unsigned int reg = 0; reg < CPUID_REGISTERS; reg++)
			compare_register(e, h, reg, problems);
	}
}

/* True for registers that hold nothing but feature bits, so that they can be united. */
static bool is_feature_register(const struct kvm_cpuid_entry2 *e, unsigned int reg)
{
	if (only_describes(e->function))
		return false;
	for (size_t i = 0; i < sizeof(rules) / sizeof(rules[0]); i++)
		if (rule_applies(&rules[i], e->function, e->index, reg))
			return rules[i].kind == RULE_BITS && rules[i].mask != 0;
	return true;
}

int cpuid_merge(struct kvm_cpuid2 **host, const struct kvm_cpuid2 *more)
{
	struct kvm_cpuid2 *all;
	uint32_t had = (*host)->nent;
	int e = cpuid_new(had + more->nent, NULL, &all);

	if (e < 0)
		return e;
	memcpy(all->entries, (*host)->entries, had * sizeof(all->entries[0]));
	all->nent = had;
	for (uint32_t i = 0; i < more->nent; i++) {
		const struct kvm_cpuid_entry2 *m = &more->entries[i];
		struct kvm_cpuid_entry2 *h =
			(struct kvm_cpuid_entry2 *)cpuid_find(all, m->function, m->index);

		if (h == NULL) {
			all->entries[all->nent++] = *m;
			continue;
		}
		for (unsigned int reg = 0; reg < CPUID_REGISTERS; reg++)
			if (is_feature_register(m, reg))
				*cpuid_register(h, reg) |= cpuid_value(m, reg);
	}
	free(*host);
	*host = all;
	return 0;
}
