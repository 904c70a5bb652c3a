# shellcheck shell=bash
# SPDX-License-Identifier: MIT
# Sourced: two QEMUs of this system under KVM, vmferry's adaptors between them, and what is asked of
# both. A side is "source" or "destination"; the latter is where far=() leads.
# What is sourced here is not looked into without -x.
# shellcheck disable=SC1091,SC2034,SC2154
. "$(dirname "$0")/cases.bash"

qmp=$build/tests/integration/rdma/rdma-qmp
hashes=$build/tests/integration/rdma/rdma-memory
image=$build/migrator/vmm/guest/vmferry-guest.elf
# No other mapping of QEMU's has this size.
guest_mib=48
guest_pages=$((guest_mib << 8))
# A tenth of the pages that are not written over and over is zero.
guest_words="fill=all ws=4M rate=2M zero=10 scrub=40M heartbeat=100"

at() { # side command...
	if [[ $1 == destination ]]; then
		"${far[@]}" "${@:2}"
	else
		"${@:2}"
	fi
}

# Gives a side's QEMU a command; prints what the pointers name of its result.
ask() { # side command [arguments [pointer...]]
	at "$1" "$qmp" "$1.qmp" "${@:2}"
}

# As libvirt starts one: the destination waits, and does not start the guest by itself.
start_one_qemu() { # side mapped|process
	local where=() backend=memory-backend-ram port arguments=()
	[[ $2 != mapped ]] || backend=memory-backend-memfd,share=on
	[[ $1 != destination ]] || {
		where=("${far[@]}")
		arguments=(-incoming defer -S)
	}
	for port in 0xe9,console 0xea,beats 0xeb,status; do
		arguments+=(-chardev "file,id=${port#*,},path=$1.${port#*,}")
		arguments+=(-device "isa-debugcon,iobase=${port%,*},chardev=${port#*,}")
	done
	# KVM may list the MSR of arch-capabilities and refuse to set it. vCPUs give way to the adaptors and
	# to soft-RoCE, which works in kernel threads: see starved().
	"${where[@]}" nice -n 19 qemu-system-x86_64 -nodefaults -no-user-config -display none -no-reboot \
		-name "$1" -pidfile "$1.pid" -qmp "unix:$1.qmp,server=on,wait=off" \
		-qmp "unix:$1.events,server=on,wait=off" \
		-accel kvm -cpu host,-arch-capabilities -M pc,memory-backend=pc.ram -m ${guest_mib}M \
		-object "$backend,id=pc.ram,size=${guest_mib}M" \
		-kernel "$image" -append "$guest_words" "${arguments[@]}" >"$1.log" 2>&1 &
	declare -g "$1=$!"
}

# What the source's tells by itself comes to a file as it happens.
start_qemus() { # mapped|process
	local side
	for side in source destination; do
		start_one_qemu $side "$1"
	done
	for side in source destination; do
		await 60 ask $side query-status >/dev/null || fail "the QEMU of the $side does not start"
	done
	"$qmp" source.events >events.log 2>&1 &
}

# So often has the guest on this side said that.
told() { # side byte
	at "$1" cat "$1.status" | tr -cd "$2" | wc -c
}

# To ask takes time of the processors that the guest needs.
told_so_often() { # side byte number
	sleep 0.3
	(($(told "$1" "$2") >= $3))
}

is_running() { # side
	[[ $(ask "$1" query-status '{}' /status) == running ]]
}

console() { # side
	at "$1" tail -n 3 "$1.console"
}

# The guest runs there, and has found all of its memory right in a whole pass since.
guest_works_at() { # side
	local passes
	is_running "$1" || fail "the guest does not run at the $1: $(ask "$1" query-status)"
	# The pass under way may have begun before.
	passes=$(($(told "$1" S) + 2))
	await 120 told_so_often "$1" S $passes ||
		fail "the guest at the $1 has not read all of its memory: $(console "$1")"
	(($(told "$1" F) == 0)) || fail "the guest at the $1 found a fault: $(console "$1")"
}

# Both serve one migration.
start_adaptors() { # address port-of-receiver's-rail... -- rail of the sender...
	local address=$1 to=() from=() uri
	shift
	while [[ $1 != -- ]]; do
		to+=(--rail "$1")
		shift
	done
	for rail in "${@:2}"; do
		from+=(--rail "$rail")
	done
	"${far[@]}" "$vmferry" qemu-receive "tcp:$address:0" --incoming "$PWD/incoming" \
		--transport rdma "${to[@]}" --once --insecure --log info --json receive.json >receive.log 2>&1 &
	receive=$!
	await 20 says receive.log 'listening at' || fail "qemu-receive does not listen"
	uri=$(sed -n 's/^listening at \([^ ]*\) .*/\1/p' receive.log)
	"$vmferry" qemu-send "unix:$PWD/outgoing" "$uri" --transport rdma "${from[@]}" \
		--once --insecure --log info --json send.json >send.log 2>&1 &
	send=$!
	await 20 says send.log 'listening at' || fail "qemu-send does not listen"
}

set_up() { # side channels bytes-a-second pause-before-switchover
	local multifd=false
	(($2 == 0)) || multifd=true
	ask "$1" migrate-set-capabilities "{\"capabilities\": [
		{\"capability\": \"events\", \"state\": true},
		{\"capability\": \"return-path\", \"state\": true},
		{\"capability\": \"multifd\", \"state\": $multifd},
		{\"capability\": \"pause-before-switchover\", \"state\": $4}]}" >/dev/null ||
		fail "the $1 does not take the capabilities"
	ask "$1" migrate-set-parameters "{\"max-bandwidth\": $3, \"downtime-limit\": 500,
		\"multifd-channels\": $(($2 ? $2 : 2))}" >/dev/null ||
		fail "the $1 does not take the parameters"
}

# The guest is at work, and on its way.
start_migration() { # channels [bytes-a-second [pause-before-switchover]]
	local side
	for side in destination source; do
		set_up $side "$1" "${2:-1000000000000}" "${3:-false}"
	done
	await 120 told_so_often source R 1 || fail "the guest does not get ready"
	ask destination migrate-incoming "{\"uri\": \"unix:$PWD/incoming\"}" >/dev/null ||
		fail "the destination does not listen"
	ask source migrate "{\"uri\": \"unix:$PWD/outgoing\"}" >/dev/null ||
		fail "the source does not migrate"
}

# When the source's QEMU has told that, in ms; nothing if it has not.
moment_of() { # event [status]
	sed -n "s/^\([0-9]*\) $1 ${2:-.*}\$/\1/p" events.log | tail -n 1
}

has_told() { # event [status]
	[[ $(moment_of "$@") ]]
}

migration() { # side
	ask "$1" query-migrate '{}' /status
}

has_moved() { # bytes
	sleep 0.3
	(($(ask source query-migrate '{}' /ram/transferred) >= $1))
}

# All of a side's memory, while its vCPU stands still.
hash_memory() { # side
	local pages
	[[ $(ask "$1" query-status '{}' /running) == false ]] || fail "the guest runs at the $1"
	at "$1" "$hashes" "$(at "$1" cat "$1.pid")" $((guest_mib << 20)) >"$1.hashes" ||
		fail "the memory of the $1 cannot be read"
	pages=$(wc -l <"$1.hashes")
	((pages == guest_pages)) || fail "$pages pages of the $1 were read, not $guest_pages"
}

same_memory() {
	local differing kinds
	hash_memory source
	hash_memory destination
	differing=$(diff source.hashes destination.hashes | grep -c '^<')
	((differing == 0)) || fail "$differing pages differ at the destination:" \
		"$(diff source.hashes destination.hashes | sed -n 's/^< //p' | head -n 3)"
	kinds=$(cut -d' ' -f2 source.hashes | sort -u | wc -l)
	((kinds > guest_pages / 2)) || fail "only $kinds pages differ from each other"
}

ended() { # pid
	! kill -0 "$1"
}

ends_with() { # name pid code
	local code=0
	await 20 ended "$2" || fail "$1 does not end"
	wait "$2" || code=$?
	((code == $3)) || fail "$1 ended with $code, not $3"
}

placed_as() { # mapped|process
	local i
	for i in {0..15}; do
		[[ $(look send.json "/blocks/$i/name") != pc.ram ]] || break
	done
	expect send.json "/blocks/$i/placement" "$1"
}

# Of a time in the sender's report.
us() { # name
	local value
	value=$(look send.json "/$1")
	echo "${value%.*}"
}

# The migration is completed, all memory has come, and the guest goes on with it.
crossed() { # mapped|process channels
	local ms downtime rounds
	await 180 has_told MIGRATION '\(completed\|failed\)' ||
		fail "the migration does not end: $(ask source query-migrate)"
	has_told MIGRATION completed || fail "the migration is $(ask source query-migrate)"
	await 20 is_completed_at_destination ||
		fail "the destination's migration is $(migration destination)"
	read -r -d '' ms downtime rounds < <(ask source query-migrate '{}' \
		/total-time /downtime /ram/dirty-sync-count)
	same_memory
	ask destination cont >/dev/null || fail "the destination does not go on"
	ends_with qemu-send "$send" 0
	ends_with qemu-receive "$receive" 0
	reports "$1" "$2"
	put_down "$source"
	guest_works_at destination
	echo "$1, $2 channels of multifd: $ms ms in $rounds rounds, downtime $downtime ms," \
		"END to fence $(us end_to_fence_us) us, $(look send.json /pages/moved) pages moved;" \
		"$guest_pages compared, none differs"
}

is_completed_at_destination() {
	[[ $(migration destination) == completed ]]
}

# What qemu-send says of a migration that was completed.
reports() { # mapped|process channels
	expect send.json /result completed
	expect send.json /mode offload
	expect send.json /transport rdma
	[[ $(at destination "$look" receive.json /result) == completed ]] ||
		fail "the destination does not say that it was completed"
	placed_as "$1"
	# All that is not zero.
	at_least send.json /pages/moved $((guest_pages * 3 / 4))
	(($(us end_to_fence_us) > 0)) || fail "no time from END to fence: $(us end_to_fence_us)"
	expect send.json /connections $(($2 + 1))
}

# For a migration that is to fail under way.
slowly=3000000

# Twice the second that it may take where processors are not emulated.
within_two_seconds() { # what since until
	echo "$1 after $(($3 - $2)) ms"
	(($3 - $2 < 2000)) || fail "$1 after $(($3 - $2)) ms only"
}

# A guest that was stopped for its last pages runs on.
fails_since() { # milliseconds
	await 20 has_told MIGRATION failed || fail "the source's migration does not fail: $(<events.log)"
	await 20 is_running source || fail "the guest does not run at the source: $(ask source query-status)"
	within_two_seconds "the source's migration failed" "$1" "$(moment_of MIGRATION failed)"
	! has_told STOP || within_two_seconds "the guest ran on" "$1" "$(moment_of RESUME)"
}

destination_goes_since() { # milliseconds
	await 20 ended "$destination" || fail "the destination's QEMU lives"
	within_two_seconds "the destination's QEMU ended" "$1" "$(milliseconds)"
}

# Whether a try may have failed because its host did not run the machine: a second of silence is a dead
# peer. Also acknowledgements come late then, packets are sent again, and soft-RoCE of Linux 6.12 now
# and then refuses what was sent again, or takes it a second time: an older fence behind a newer one,
# which no source sends. A guest that finds a fault, pages that differ and a wrong state are no such
# thing.
starved() { # directory
	local signs='no sign of life|remote invalid request|epoch does not grow|no answer to the handshake'
	case $(cat "$1/why" 2>/dev/null) in
	*" ms only") return 0 ;;
	"the migration "* | "nothing is moved" | "the reason is "* | "it does not come to "*)
		grep -qE "$signs|a lane was broken off" "$1"/{send,receive}.log
		;;
	*) return 1 ;;
	esac
}

# Three tries at the most.
patiently() { # function...
	local try
	for try in 1 2 3; do
		! run_case "$PWD/$try" "$@" || return 0
		# Also without its second machine a case cannot be tried again.
		if ((try == 3)) || [[ -e /run/lab/dead.2 ]] || ! starved "$PWD/$try"; then
			break
		fi
		echo "STARVED, in try $try of 3: $(<"$try/why")"
		grep -hE 'vmferry: error' "$try"/{send,receive}.log
	done
	mv "$try"/*.log .
	fail "$(cat "$try/why" 2>/dev/null || echo "the script itself")"
}
