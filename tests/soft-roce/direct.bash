#!/bin/bash
# SPDX-License-Identifier: MIT
# Sourced by `run`. RDMA on this host itself: the devices that it has, or soft-RoCE ones for as long as the command runs.

# The addresses of family 4 or 6 of the RDMA devices that are up, on one line.
host_rails() { # 4|6
	local device
	rdma link show 2>/dev/null | sed -n 's/.* state ACTIVE .* netdev \([^ ]*\).*/\1/p' |
		while read -r device; do
			[[ $device == lo ]] || ip -o "-$1" addr show dev "$device" scope global | awk '{ sub("/.*", "", $4); print $4 }'
		done | paste -sd ' '
}

have() { # program...
	local program
	for program in "$@"; do
		command -v "$program" >/dev/null || return
	done
}

rdma_usable() {
	have ip rdma && [[ -r /dev/infiniband/rdma_cm && -w /dev/infiniband/rdma_cm && $(host_rails 4) ]]
}

# Whether this kernel has the driver and nothing here is called what we would make.
may_make_rails() {
	((EUID == 0)) && have ip rdma modprobe && modprobe -nq rdma_rxe && modprobe -nq dummy &&
		! [[ -e /sys/class/net/rail0 || -e /sys/class/net/rail1 ]] && [[ ! $(ip -4 route show root 10.77.0.0/16) ]]
}

made_links=() made_modules=()
make_rails() {
	local module rail
	for module in dummy rdma_rxe rdma_ucm; do
		[[ -d /sys/module/$module ]] || made_modules=("$module" "${made_modules[@]}")
	done
	# The module would make a device of its own.
	modprobe dummy numdummies=0 && modprobe -a crc32_generic rdma_rxe rdma_ucm || return
	for rail in 0 1; do
		made_links+=("rail$rail")
		ip link add rail$rail mtu 9000 type dummy &&
			ip addr add 10.77.$rail.1/24 dev rail$rail &&
			ip addr add fd77:0:0:$rail::1/64 dev rail$rail nodad &&
			ip link set rail$rail up &&
			rdma link add rxe_rail$rail type rxe netdev rail$rail || return
	done
	for _ in {1..50}; do
		! rdma_usable || return 0
		sleep 0.1
	done
	return 1
}

unmake_rails() {
	local link
	for link in "${made_links[@]}"; do
		rdma link delete "rxe_$link" 2>/dev/null
		ip link delete "$link" 2>/dev/null
	done
	((${#made_modules[@]} == 0)) || modprobe -rq "${made_modules[@]}" 2>/dev/null
	made_links=() made_modules=()
}

run_here() { # seconds command...
	local seconds=$1 code=0
	shift
	VMFERRY_LAB=host VMFERRY_HOST=1 VMFERRY_RAILS=$(host_rails 4) VMFERRY_RAILS6=$(host_rails 6)
	export VMFERRY_LAB VMFERRY_HOST VMFERRY_RAILS VMFERRY_RAILS6
	# In the background, so that a signal is heard at once.
	timeout --kill-after=5 "$seconds" env --default-signal "$@" <&0 &
	command=$!
	# The shell would tell of a signal that ended it.
	{ wait "$command"; } 2>/dev/null || code=$?
	return "$code"
}

# Returns only if there is no way to do it here.
run_direct() { # seconds command...
	local code=0
	trap '[[ ! ${command:-} ]] || { kill -TERM "$command"; wait "$command"; }; unmake_rails' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	trap 'exit 129' HUP
	rdma_usable || { may_make_rails && make_rails; } || {
		unmake_rails
		trap - EXIT INT TERM HUP
		return
	}
	run_here "$@" || code=$?
	command=''
	exit "$code"
}
