#!/bin/bash
# SPDX-License-Identifier: MIT
# Sourced by check, behind hosts.bash: the cases in which vmferry carries what the source's QEMU sends. On each of two hosts the
# same path means another socket: that of qemu-send on the source, that of QEMU on the destination.
# shellcheck disable=SC2154 # check sets: build, vmferry, guest
# shellcheck disable=SC2030,SC2031 # of two guests, one has a shell of its own

ferry_path() { # to
	echo "/run/vmferry/$1/$guest"
}

listens() { # port
	grep -q ":$(printf %04X "$1") 0*:0000 0A" /proc/net/tcp /proc/net/tcp6
}

# Below the ports that the kernel gives away.
free_port() {
	local port
	while port=$((10000 + RANDOM % 20000)) && listens "$port"; do :; done
	echo "$port"
}

# A value in a host's report of its last migration.
told() { # host sent|received pointer
	"$build/tests/integration/rdma/rdma-look" "$top/$guest.$1.$2.json" "$3"
}

start_receiver() { # to port argument...
	mkdir -p "$top/$1$(ferry_path "$1" | sed 's,/[^/]*$,,')"
	on "$1" "$vmferry" qemu-receive "tcp:127.0.0.1:$2" --json "$top/$guest.$1.received.json" "${@:3}" &
	receiver=$!
	await 30 listens "$2" || fail "qemu-receive does not listen"
}

start_sender() { # from to port argument...
	local path
	path=$(ferry_path "$2")
	mkdir -p "$top/$1${path%/*}"
	on "$1" "$vmferry" qemu-send "unix:$path" "tcp:127.0.0.1:$3" \
		--json "$top/$guest.$1.sent.json" "${@:4}" &
	sender=$!
	await 30 test -S "$top/$1$path" || fail "qemu-send does not listen"
}

start_ferry() { # from to
	port=$(free_port)
	start_receiver "$2" "$port"
	start_sender "$1" "$2" "$port"
}

# Kills the adaptor on one host, which on() has bound to its own life.
kill_ferry() { # pid
	kill -KILL "$1"
	wait "$1"
} 2>/dev/null

is_reported() { # host sent|received
	[[ $(told "$1" "$2" /result) == completed ]]
}

assert_reported() { # host sent|received
	await 30 is_reported "$@" || fail "$1 does not report it: $(<"$top/$guest.$1.$2.json")"
}

# Pages of the guest's memory go straight into it at the destination, in the way that this kind of memory allows.
assert_placed() { # from shared|private
	local way=mapped i=0
	[[ $2 == shared ]] || way=process
	assert_reported "$1" sent
	[[ $(told "$1" sent /mode) == offload ]] || fail "passed through: $(told "$1" sent /mode_reason)"
	while [[ $(told "$1" sent "/blocks/$i/name") != pc.ram ]]; do
		((++i < 32)) || fail "no pc.ram in the report: $(told "$1" sent /blocks)"
	done
	[[ $(told "$1" sent "/blocks/$i/placement") == "$way" ]] || fail "not $way: $(told "$1" sent "/blocks/$i")"
	# All that the guest has filled.
	(($(told "$1" sent /pages/moved) >= 8192)) || fail "pages: $(told "$1" sent /pages)"
}

ferry_to() { # from to shared|private argument...
	rm -f "$top/$guest".*.json
	assert_migrates "$1" "$2" "$guest" "$(ferry_path "$2")" "${@:4}"
	assert_placed "$1" "$3"
	assert_reported "$2" received
}

# To and fro.
ferry() { # shared|private argument of virsh migrate...
	start_guest left "$guest" "$1"
	start_ferry left right
	start_ferry right left
	ferry_to left right "$@"
	ferry_to right left "$@"
}

# With postcopy QEMU has to place pages itself.
ferry_postcopy() {
	start_guest left "$guest" shared
	start_ferry left right
	assert_migrates left right "$guest" "$(ferry_path right)" --postcopy "$@"
	assert_reported left sent
	[[ $(told left sent /mode) == forward ]] || fail "not passed through: $(told left sent /mode)"
}

# A second guest comes to the same receiver, and overtakes the first one.
ferry_two() { # shared|private argument of virsh migrate...
	start_guest left "$guest" "$1"
	start_ferry left right
	start_migration left right "$guest" "$(ferry_path right)" "${@:2}"
	(
		guest+=-second
		trap 'kill -KILL "$sender"; virsh right destroy "$guest"' EXIT
		start_guest left "$guest" "$1"
		start_sender left right "$port"
		assert_migrates left right "$guest" "$(ferry_path right)" "${@:2}"
		assert_placed left "$1"
	) || fail "the second guest does not cross beside the first one"
	[[ $(virsh left domstate "$guest") == running ]] || fail "the first guest has not stayed"
	virsh left migrate-setspeed "$guest" 1000
	wait "$migration" || fail "virsh migrate failed: $(<"$top/migration")"
	assert_runs right "$guest"
	assert_gone left "$guest"
	assert_placed left "$1"
}

ferry_abort() { # shared|private argument of virsh migrate...
	start_guest left "$guest" "$1"
	start_ferry left right
	start_migration left right "$guest" "$(ferry_path right)" "${@:2}"
	virsh left domjobabort "$guest"
	assert_migration_fails left right "$guest" 'canceled by client'
	ferry_to left right "$@"
}

# Whoever starts the adaptor again finds its socket still there.
ferry_sender_killed() { # shared|private argument of virsh migrate...
	start_guest left "$guest" "$1"
	start_ferry left right
	start_migration left right "$guest" "$(ferry_path right)" "${@:2}"
	kill_ferry "$sender"
	assert_migration_fails left right "$guest" .
	start_sender left right "$port"
	ferry_to left right "$@"
}

ferry_receiver_killed() { # shared|private argument of virsh migrate...
	start_guest left "$guest" "$1"
	start_ferry left right
	start_migration left right "$guest" "$(ferry_path right)" "${@:2}"
	kill_ferry "$receiver"
	assert_migration_fails left right "$guest" .
	start_receiver right "$port"
	ferry_to left right "$@"
}
