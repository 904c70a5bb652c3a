# shellcheck shell=bash
# SPDX-License-Identifier: MIT
# Sourced. How the scripts here keep what they measure, and how they tell it. They have die(), $raw, the file of all values, and $log, a
# name for passing files.

# As in measure.h: nothing has failed, but the measurement has to be taken again.
again=75

# measure GROUP SIDE RUN COMMAND...: appends the "name value" lines that the command prints. Of five failures each is told; what is to be
# taken again is taken again without a word, 20 times at most.
measure() {
	local group=$1 side=$2 run=$3 attempt repeats=0 code
	shift 3
	for ((attempt = 1; attempt <= 5; attempt++)); do
		code=0
		"$@" >"$log" 2>"$log.errors" || code=$?
		if ((code == 0)); then
			awk -v OFS='\t' -v g="$group" -v s="$side" -v r="$run" '{ print g, s, r, $1, $2 }' "$log" >>"$raw"
			return
		fi
		if ((code == again && ++repeats <= 20)); then
			((attempt--))
			continue
		fi
		cat "$log.errors" >&2
		echo "$0: $group: $side: attempt $attempt failed" >&2
	done
	die "$group: $side: cannot be measured"
}

# add_first_pass GROUP RUN BYTES: what can be compared with a bare link, from what vmferry's report says. Its destination populates memory
# before the first page comes, for a second at most (POPULATE_AHEAD_NS). A first pass into memory that is all there then, "prepared", is
# like a bare link whose memory has been touched; both together, "fresh", are like one that has touched nothing.
add_first_pass() {
	awk -F'\t' -v OFS='\t' -v g="$1" -v r="$2" -v bytes="$3" '
		$1 == g && $2 == "ferry" && $3 == r { v[$4] = $5 }
		END {
			populate = v["link/destination_populate_us"] / 1e6
			rate = v["first_pass_bytes_per_second"]
			if (populate > 0 && populate < 1)
				print g, "prepared", r, "bytes_per_second", rate
			print g, "fresh", r, "bytes_per_second", sprintf("%.0f", bytes / (populate + bytes / rate))
		}' "$raw" >"$log"
	cat "$log" >>"$raw"
}

# value GROUP SIDE NAME [median|max]
value() {
	awk -F'\t' -v g="$1" -v s="$2" -v n="$3" '$1 == g && $2 == s && $4 == n { print $5 }' "$raw" | "${4:-median}"
}

# Of the numbers in its input.
median() {
	sort -g | awk '{ v[NR] = $1 }
		END {
			if (!NR)
				exit 1
			printf "%.12g\n", NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2
		}'
}

max() {
	sort -g | tail -n 1 | grep .
}

calculate() {
	awk "BEGIN { printf \"%.12g\n\", $1 }"
}

least() {
	printf '%s\n' "$@" | sort -g | head -n 1
}

# row WHAT OURS THEIRS TARGET [FORMAT]: the ratio of the two against a target such as ">= 0.85", or "<= 1.0 +1" which lets ours be more by
# as much in addition; no target, no verdict.
row() {
	awk -v what="$1" -v ours="$2" -v theirs="$3" -v target="$4" -v fmt="${5:-%.2f}" 'BEGIN {
		split(target, t, " ")
		ratio = theirs > 0 ? ours / theirs : 0
		met = theirs > 0 && (t[1] == ">=" ? ratio >= t[2] : ours <= t[2] * theirs + t[3])
		printf "%-48s " fmt " %11s %8.3f  %-9s %s\n", what, ours, theirs == "" ? "" : sprintf(fmt, theirs), ratio,
			target, target == "" ? "" : met ? "pass" : "MISS"
	}'
}

heading() {
	printf '\n%-48s %11s %11s %8s  %s\n' "$1" ours theirs ratio target
}

figure='%11.2f'
