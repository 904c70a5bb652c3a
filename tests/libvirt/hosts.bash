#!/bin/bash
# SPDX-License-Identifier: MIT
# Sourced by check: two hosts with a libvirtd each, their guests, and what is asked of them. Every command of virsh and every wait
# has a deadline, far above what it needs, because machines may be busy.
# shellcheck disable=SC2154 # check sets: build, here, libvirt, emulator, kvm
set -uo pipefail

top=$(mktemp -d /tmp/libvirt.XXXX)
declare -A host=()

fail() {
	echo "$*" >&2
	exit 1
}

# Repeats a command until it succeeds.
await() { # seconds command...
	local end=$((SECONDS + $1))
	shift
	until "$@" &>/dev/null; do
		((SECONDS < end)) || return 1
		sleep 0.05
	done
}

uri() { # host
	echo "qemu+unix:///system?socket=$top/$1/run/libvirt/libvirt-sock"
}

virsh() { # host command...
	LD_LIBRARY_PATH=${libvirt%/}/usr/lib/x86_64-linux-gnu \
		timeout 120 "${libvirt%/}/usr/bin/virsh" -q -c "$(uri "$1")" "${@:2}"
}

# The hosts die with this script, however it ends.
start_host() { # name
	setpriv --pdeathsig KILL "$here/host" "$top" "$1" "$libvirt" &
	host[$1]=$!
	await 60 virsh "$1" uri || fail "libvirtd of $1 does not answer: $(cat "$top/$1/stderr")"
}

stop_hosts() {
	kill -KILL "${host[@]}"
	wait "${host[@]}"
	rm -rf "$top"
} 2>/dev/null

# Runs a command on a host, in the network of the machine. It dies with the process that is started here.
on() { # host command...
	local namespaces=/proc/${host[$1]}/ns
	setpriv --pdeathsig KILL nsenter --mount="$namespaces/mnt" --pid="$namespaces/pid_for_children" -- \
		setpriv --pdeathsig KILL "${@:2}"
}

# The reference guest, checking its memory while it rewrites some of it. PVM's KVM on AMD has no MSR for arch-capabilities.
# Where only an emulator can run it, that has to be QEMU 9.0 or newer: older ones lose writes when they migrate.
describe_guest() { # name memory
	# A busy host disturbs how the guest measures the emulated TSC. Its frequency only has to be about right.
	local type=qemu cpu='' memory='' tsc=tsc=2000000000
	if [[ $kvm ]]; then
		type=kvm tsc=''
		cpu="<cpu mode='host-passthrough'><feature policy='disable' name='arch-capabilities'/></cpu>"
	fi
	[[ $2 != shared ]] || memory="<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"
	cat <<-END
		<domain type='$type' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
		  <name>$1</name>
		  <memory unit='MiB'>64</memory>
		  $memory
		  <os>
		    <type arch='x86_64' machine='pc'>hvm</type>
		    <kernel>$build/migrator/vmm/guest/vmferry-guest.elf</kernel>
		    <cmdline>fill=32M ws=4M rate=10M heartbeat=100 $tsc</cmdline>
		  </os>
		  <features><acpi/><apic/></features>
		  $cpu
		  <devices>
		    <emulator>$emulator</emulator>
		    <controller type='usb' model='none'/>
		    <memballoon model='none'/>
		  </devices>
		  <qemu:commandline>
	END
	local i=0xe9 port
	for port in console beats status; do
		printf "<qemu:arg value='%s'/>" -chardev "file,id=$port,path=/run/guest/$1.$port,append=on" \
			-device "isa-debugcon,iobase=$((i++)),chardev=$port"
	done
	echo "</qemu:commandline></domain>"
}

# How often the guest has said that on its status port, on this host.
said() { # host guest byte
	tr -dc "$3" 2>/dev/null <"$top/$1/run/guest/$2.status" | wc -c
}

said_more() { # host guest byte than
	(($(said "$1" "$2" "$3") > $4))
}

start_guest() { # host name shared|private
	describe_guest "$2" "$3" >"$top/$2.xml"
	virsh "$1" create "$top/$2.xml" >/dev/null || fail "$1 does not start the guest"
	await 60 said_more "$1" "$2" S 0 || fail "the guest does not get ready: $(cat "$top/$1/run/guest/$2.console")"
}

# The guest runs here, and has read all of its memory since this was asked and found it right.
assert_runs() { # host guest
	local state before
	state=$(virsh "$1" domstate "$2")
	[[ $state == running ]] || fail "$2 is '$state' on $1, not running"
	before=$(said "$1" "$2" S)
	# The pass under way has begun before; the one behind it has not.
	await 60 said_more "$1" "$2" S $((before + 1)) || fail "$2 does not get on, on $1"
	for name in "${!host[@]}"; do
		! said_more "$name" "$2" F 0 || fail "$2 found its memory wrong: $(cat "$top/$name/run/guest/$2.console")"
	done
	[[ $(virsh "$1" domstate "$2") == running ]] || fail "$2 does not run any more on $1"
}

is_gone() { # host guest
	! virsh "$1" list --all --name | grep -qx "$2"
}

has_no_qemu() { # host guest
	# The pattern does not match itself where it stands in grep's own command line.
	# shellcheck disable=SC2016
	on "$1" bash -c '! grep -qs "guest=$0[,]" /proc/[0-9]*/cmdline' "$2"
}

# The guest is not here any more, neither for libvirt nor as a process.
assert_gone() { # host guest
	await 30 is_gone "$1" "$2" || fail "$2 is still $(virsh "$1" domstate "$2") on $1"
	await 30 has_no_qemu "$1" "$2" || fail "$1 has a QEMU for $2 left"
}

# Both hosts see the path: the destination's QEMU listens there, and the source connects to it or to what listens in its place.
migrate() { # from to guest path argument...
	virsh "$1" migrate --live "$3" "$(uri "$2")" --migrateuri "unix://$4" "${@:5}"
}

assert_migrates() { # from to guest path argument...
	local jobs
	migrate "$@" || fail "virsh migrate failed"
	assert_runs "$2" "$3"
	assert_gone "$1" "$3"
	jobs=$(virsh "$2" domjobinfo "$3" --completed)
	[[ $jobs =~ ^Job\ type:\ +Completed && $jobs =~ Operation:\ +Incoming\ migration ]] ||
		fail "the completed job is not the migration: $jobs"
	grep -E '^(Time elapsed|Data processed|Total downtime):' <<<"$jobs"
}

has_moved() { # host guest MiB
	local unit value
	read -r value unit < <(virsh "$1" domjobinfo "$2" | sed -n 's/^Data processed: *//p')
	[[ $unit == MiB ]] && ((${value%.*} >= $3))
}

# A migration that takes half a minute and is in the middle now.
start_migration() { # from to guest path argument...
	migrate "$@" --bandwidth 1 2>"$top/migration" &
	migration=$!
	await 60 has_moved "$1" "$3" 2 || fail "the migration does not get on: $(virsh "$1" domjobinfo "$3" 2>&1)"
}

assert_migration_fails() { # from to guest what it says
	local code=0 begin=$SECONDS
	wait "$migration" || code=$?
	((code != 0 && code != 124)) || fail "virsh migrate ended with $code"
	echo "virsh migrate ended after $((SECONDS - begin)) s: $(<"$top/migration")"
	grep -qE "$4" "$top/migration" || fail "it does not say $4"
	assert_gone "$2" "$3"
	assert_runs "$1" "$3"
}
