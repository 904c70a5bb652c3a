# shellcheck shell=bash
# SPDX-License-Identifier: MIT
# Sourced by perf/run: QEMU's guests through vmferry's adaptor against QEMU's own migration, the group "qemu".
# What is not set here is perf/run's or of perf/qemus.bash.
# shellcheck disable=SC2154

# At this downtime limit, in ms, times and rates are measured; the blackout at all.
qemu_limit=30 qemu_limits=(1 10 30)
# The options of perf-qemu that make the destination's memory one that the adaptor can map.
mapped=()

# migrated VERSION [OPTION OF perf-qemu]...: the guest at work, migrated.
migrated() {
	local words="ws=$working_set rate=200M heartbeat=5000"
	# An emulated processor is not fast enough for more.
	[[ ! $emulated ]] || words+=" heartbeat=1000"
	local options=(--qemu "${qemu_programs[$1]}" ${emulated:+--tcg} "${@:2}")
	if lossy "$1"; then
		qemu "$words scrub=0" "${options[@]}" --lossy
	else
		qemu "$words" "${options[@]}" ${quick:+--check}
	fi
}

# The destination's memory has huge pages as QEMU's own, anonymous memory has: without a tmpfs of ours a memfd has none.
share_memory() {
	shared=$(mktemp -d)
	if mount -t tmpfs -o huge=advise,mode=700 none "$shared" 2>/dev/null; then
		mapped=(--mapped-in "$shared")
	else
		rmdir "$shared"
		shared='' mapped=(--mapped)
		echo "no tmpfs with huge pages can be mounted here: the destination's memory has small ones through us, and huge ones without"
	fi
}

relayed() { # VERSION [OPTION OF perf-qemu]...
	migrated "$1" --ferry "$build_dir/migrator/cli/vmferry" --place forward "${@:2}"
}

through() { # VERSION [OPTION OF perf-qemu]...
	migrated "$1" "${mapped[@]}" --ferry "$build_dir/migrator/cli/vmferry" "${@:2}"
}

# The least that processes between two others cost: they only hand the bytes on, from a unix socket to TCP and, with two, back.
hops() { # HOPS
	"$build_dir/perf/perf-link" --huge --streams 2 --size "$memory" --hops "$1"
}

measure_qemu() {
	local run=$1 version limit group count
	find_qemus
	((${#mapped[@]})) || share_memory
	for count in 0 1 2; do
		measure hops "$count" "$run" hops "$count"
	done
	for version in "${qemu_versions[@]}"; do
		group=qemu-$version
		for limit in "${qemu_limits[@]}"; do
			measure "$group" "own-multifd-$limit" "$run" migrated "$version" --downtime "$limit" --multifd 2
			measure "$group" "ferry-multifd-$limit" "$run" through "$version" --downtime "$limit" --multifd 2
		done
		measure "$group" relay-multifd "$run" relayed "$version" --downtime $qemu_limit --multifd 2
		measure "$group" own-single "$run" migrated "$version" --downtime $qemu_limit
		measure "$group" ferry-single "$run" through "$version" --downtime $qemu_limit
		measure "$group" relay-single "$run" relayed "$version" --downtime $qemu_limit
	done
}

# sent_per_second GROUP SIDE: medians of what each run sent in a second, GiB.
sent_per_second() {
	awk -F'\t' -v OFS='\t' -v g="$1" -v s="$2" '
		$1 == g && $2 == s { v[$3, $4] = $5; runs[$3] }
		END { for (r in runs) printf "%.12g\n", v[r, "bytes_sent"] / v[r, "seconds"] / 2^30 }' "$raw" | median
}

tell_costs() { # GROUP OURS THEIRS TIME-TARGET CPU-TARGET DESTINATION-TARGET
	row "total time, s" "$(value "$1" "$2" seconds)" "$(value "$1" "$3" seconds)" "$4" "$figure"
	row "CPU seconds of all processes" "$(value "$1" "$2" cpu_seconds)" "$(value "$1" "$3" cpu_seconds)" "$5" "$figure"
	row "CPU seconds of the destination's" "$(value "$1" "$2" destination_cpu_seconds)" \
		"$(value "$1" "$3" destination_cpu_seconds)" "$6" "$figure"
}

tell_version() {
	local version=$1 group=qemu-$1 limit
	heading "QEMU $version, multifd 2, downtime-limit $qemu_limit ms"
	tell_costs "$group" ferry-multifd-$qemu_limit own-multifd-$qemu_limit "<= 1.1" "<= 1.15" "<= 0.7"
	heading "QEMU $version, single stream, downtime-limit $qemu_limit ms"
	tell_costs "$group" ferry-single own-single "" "" ""
	heading "QEMU $version, relay alone (--place forward)"
	row "multifd 2: sent, GiB/s" "$(sent_per_second "$group" relay-multifd)" \
		"$(sent_per_second "$group" own-multifd-$qemu_limit)" ">= 0.9" "$figure"
	tell_costs "$group" relay-multifd own-multifd-$qemu_limit "" "" ""
	row "single stream: sent, GiB/s" "$(sent_per_second "$group" relay-single)" "$(sent_per_second "$group" own-single)" ">= 0.9" \
		"$figure"
	tell_costs "$group" relay-single own-single "" "" ""
	heading "QEMU $version, multifd 2: silence of heartbeat, ms"
	for limit in "${qemu_limits[@]}"; do
		row "downtime-limit $limit ms, median" "$(in_ms "$group" "ferry-multifd-$limit")" "$(in_ms "$group" "own-multifd-$limit")" \
			"<= 1.0 +1" "$figure"
		row "    longest of $runs" "$(in_ms "$group" "ferry-multifd-$limit" max)" "$(in_ms "$group" "own-multifd-$limit" max)" "" \
			"$figure"
		row "    END's last page to fence; 0.5 ms" \
			"$(calculate "$(value "$group" "ferry-multifd-$limit" send/end_to_fence_us) / 1000")" 0.5 "<= 1.0" "$figure"
	done
}

in_ms() { # GROUP SIDE [max]
	calculate "$(value "$1" "$2" observed_blackout_us "${3:-median}") / 1000"
}

tell_hops() {
	local count
	heading "2 streams with nothing but $memory of bytes, with processes in between that hand them on"
	for count in 1 2; do
		row "$count of them: time, s" "$(value hops "$count" seconds)" "$(value hops 0 seconds)" "" "$figure"
		row "$count of them: CPU seconds" "$(value hops "$count" cpu_seconds)" "$(value hops 0 cpu_seconds)" "" "$figure"
	done
}

tell_qemu() {
	local version
	tell_hops
	for version in "${qemu_versions[@]}"; do
		tell_version "$version"
	done
}
