# shellcheck shell=bash
# SPDX-License-Identifier: MIT
# Sourced by the scripts that run in the laboratory: cases, the processes of a migration, and what is asked of a guest.
# Everything happens on an emulated machine: where a test waits for something to happen it waits long.
set -uo pipefail

build=$1
vmferry=$build/migrator/cli/vmferry
look=$build/tests/integration/rdma/rdma-look
# vmferry, but it stands still once it has entered the phase that a case chooses for one side.
held_program=$build/tests/integration/rdma/vmferry-held
hold_source='' hold_destination=''
read -ra rails <<<"$VMFERRY_RAILS"
read -ra rails6 <<<"$VMFERRY_RAILS6"
# What runs a command where the destination is.
far=()
guest=(--memory 32M --fill 16M --ws 2M --rate 1M --heartbeat 100 --console none)
top=$(mktemp -d /tmp/crossing.XXXX)
chmod 755 "$top"
failures=0
# A case's exit code for a guest that the emulated processors have lost, see is_lost_in_kvm().
lost=75

# Runs a function as a case, in a process and a directory of its own. What it leaves running dies with it.
run_case() { # directory function [argument...]
	mkdir "$1"
	(
		cd "$1" || exit
		trap 'leave $?' EXIT
		"${@:2}"
	)
}

# VMFERRY_CASES is a regular expression for those who want some cases only.
attempt() { # name function [argument...]
	local name=$1 start=$SECONDS code=0
	shift
	[[ $name =~ ${VMFERRY_CASES:-.} ]] || return 0
	run_case "$top/$name" "$@" || code=$?
	if ((code == lost)); then
		echo "LOST GUEST in $name, which is tried once more: $(<"$top/$name/why")"
		mv "$top/$name" "$top/$name.lost"
		code=0
		run_case "$top/$name" "$@" || code=$?
	fi
	if ((code == 0)); then
		echo "ok $name ($((SECONDS - start)) s)"
		return
	fi
	echo "FAILED $name: $(cat "$top/$name/why" 2>/dev/null || echo "the script itself") ($((SECONDS - start)) s)"
	grep -nE 'vmferry: |^reason|^detail|^\[(FAIL|CRASH|----)' "$top/$name"/*.log | sed "s|$top/||"
	tail -n 8 "$top/$name"/*.log
	failures=$((failures + 1))
}

finish() {
	echo "crossing: $failures cases failed, $SECONDS s"
	rm -rf "$top"
	exit $((failures != 0))
}

leave() { # code
	local jobs
	jobs=$(jobs -p)
	# shellcheck disable=SC2086
	[[ ! $jobs ]] || kill -KILL $jobs 2>/dev/null
	[[ ! ${held:-} ]] || rm -f "$held"
	wait 2>/dev/null
	exit "$1"
}

fail() {
	echo "$*" >why
	exit 1
}

# The destination is on machine 2.
pair() {
	read -ra peer_rails <<<"$VMFERRY_PEER_RAILS"
	read -ra peer_rails6 <<<"$VMFERRY_PEER_RAILS6"
	far=(lab on 2)
	# Addresses of machine 2: over the cable that is pulled, and over the one that never is.
	over_rail=${peer_rails[0]}
	over_control=10.79.0.2
}

# Whatever a case did, the next one finds the cable in order.
tidily() { # function...
	(cd / && lab on 2 mkdir -p "$OLDPWD") || fail "machine 2 does not answer"
	lab cable on
	lab netem off
	lab on 2 lab netem off
	lab mend
	lab on 2 lab mend
	"$@"
}

# The shell need not tell that it was killed.
put_down() { # pid
	kill -KILL "$1" 2>/dev/null
	wait "$1" 2>/dev/null
}

# Packets.
sent_by() { # device
	cat "/sys/class/infiniband/$1/ports/1/hw_counters/sent_pkts"
}

# Repeats a command until it succeeds.
await() { # seconds command...
	local end=$((SECONDS + $1))
	shift
	until "$@" 2>/dev/null; do
		((SECONDS < end)) || return 1
		sleep 0.05
	done
}

says() { # file text
	grep -q -- "$2" "$1"
}

look() { # socket or file, pointer...
	if [[ $1 == destination ]]; then
		"${far[@]}" "$look" "$@"
	else
		"$look" "$@"
	fi
}

is() { # socket or file, pointer, value
	[[ $(look "$1" "$2") == "$3" ]]
}

# Fails unless the report says so.
expect() { # file pointer value
	is "$@" || fail "$1: $2 is '$(look "$1" "$2")', not '$3'"
}

at_least() { # file pointer number
	local value
	value=$(look "$1" "$2")
	((${value:-0} >= $3)) || fail "$1: $2 is '$value', less than $3"
}

milliseconds() {
	echo $((${EPOCHREALTIME/[.,]/} / 1000))
}

# Whether the guest's vCPU sleeps in KVM_RUN (ioctl 16 of 0xae80): then nobody in its process holds it, and its timer does not reach it
# any more. Emulated processors that run KVM lose a guest like that now and then, once in hundreds of migrations.
is_lost_in_kvm() { # socket
	local command="grep -qsE '^16 0x[0-9a-f]+ 0xae80 ' \$(pgrep -f -- '--control $1' | sed 's|.*|/proc/&/task/*/syscall|')"
	if [[ $1 == destination ]]; then
		"${far[@]}" bash -c "$command"
	else
		bash -c "$command"
	fi
}

# The guest that a process has runs, finds its memory right, and has read all of it once more since now.
assert_runs_at() { # socket
	local state faults scrubs beats before
	await 20 is "$1" /state running || fail "$1 does not run: $(look "$1" /state 2>&1)"
	mapfile -t before < <(look "$1" /scrubs /vcpus/0/beats)
	for _ in {1..1200}; do
		read -r -d '' state faults scrubs beats < <(look "$1" /state /faults /scrubs /vcpus/0/beats)
		[[ $state == running ]] || fail "$1 ran and is now: $state"
		[[ $faults == 0 ]] || fail "$1: the guest found $faults faults in its memory"
		# The pass under way may have begun before; the one behind it did not.
		((scrubs < before[0] + 2 || beats <= before[1])) || return 0
		sleep 0.1
	done
	echo "$1: the guest does not get on: ${before[*]} were checks and beats, $scrubs $beats are" >why
	[[ "${before[*]}" != "$scrubs $beats" ]] || ! is_lost_in_kvm "$1" || exit "$lost"
	exit 1
}

# The command that runs the program, which holds in that phase, if one is named.
program() { # [phase]
	if [[ $1 ]]; then
		# Where the other machine sees it too, if there is one.
		held=$(mktemp -u "$build/held.XXXXXX")
		command=(env "VMFERRY_HOLD=$1" "VMFERRY_HELD=$held" "$held_program")
	else
		command=("$vmferry")
	fi
}

is_held() {
	test -e "$held"
}

# Until the engine stands still in the phase that the case has chosen.
await_hold() {
	await 180 is_held || fail "never came to the phase $hold_source$hold_destination"
}

go_on() {
	rm "$held"
}

# How long after a moment the source has said that it lost the other side: twice the second that it may take where processors are not
# emulated. The guest runs meanwhile; what belonged to the connection is torn down afterwards, for which soft-RoCE waits
# until the kernel gives up packets that wait for a neighbour's address.
noticed_since() { # milliseconds [at most]
	local ms most=${2:-2000}
	await 10 says source.log 'the session is over' || fail "the source does not notice"
	ms=$(($(milliseconds) - $1))
	echo "noticed after $ms ms"
	((ms < most)) || fail "noticed after $ms ms only"
}

start_source() { # argument...
	local command
	program "$hold_source"
	"${command[@]}" run "${guest[@]}" --control source "$@" >source.log 2>&1 &
	source=$!
	await 20 is source /ready true || fail "the guest did not get ready"
}

start_destination() { # argument...
	local command
	program "$hold_destination"
	"${far[@]}" "${command[@]}" receive --control destination --console none "$@" >destination.log 2>&1 &
	destination=$!
	await 20 says destination.log "waiting for a guest at" || fail "no receiver"
	uri=$(sed -n 's/^waiting for a guest at //p' destination.log)
}

# On a terminal of its own, so that it tells its phases. Leaves the exit code in migrate.code. Whether it connects again is the case's to
# say, in $reconnect.
start_migrate() { # argument...
	local command
	printf -v command '%q ' "$vmferry" migrate source "$uri" --json report.json --reconnect "${reconnect:-never}" "$@"
	rm -f report.json migrate.code migrate.log
	{
		local code=0
		script -qefc "$command" migrate.log </dev/null >/dev/null 2>&1 || code=$?
		echo $code >migrate.new
		mv migrate.new migrate.code
	} &
}

# Until migrate has told this phase.
phase() { # name
	await 60 says migrate.log "$1" || fail "migrate never came to the phase $1"
}

migrate_ends() { # code [seconds]
	local code
	await "${2:-60}" test -e migrate.code || fail "migrate does not end"
	code=$(<migrate.code)
	[[ $code == "$1" ]] || fail "migrate ended with $code, not $1"
}
