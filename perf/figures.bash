# shellcheck shell=bash
# SPDX-License-Identifier: MIT
# Sourced. How the scripts here keep what they measure, and how they tell it. They have die(), $raw, the file of all values, and $log, a
# name for passing files.

# measure GROUP SIDE RUN COMMAND...: appends the "name value" lines that the command prints.
measure() {
	local group=$1 side=$2 run=$3 attempt
	shift 3
	for attempt in 1 2 3 4 5; do
		if "$@" >"$log" 2>"$log.errors"; then
			awk -v OFS='\t' -v g="$group" -v s="$side" -v r="$run" '{ print g, s, r, $1, $2 }' "$log" >>"$raw"
			return
		fi
		cat "$log.errors" >&2
		echo "$0: $group: $side: attempt $attempt failed" >&2
	done
	die "$group: $side: cannot be measured"
}

# value GROUP SIDE NAME [median|max]
value() {
	awk -F'\t' -v g="$1" -v s="$2" -v n="$3" '$1 == g && $2 == s && $4 == n { print $5 }' "$raw" | sort -g |
		awk -v how="${4:-median}" '{ v[NR] = $1 }
			END {
				if (!NR)
					exit 1
				printf "%.12g\n", how == "max" ? v[NR] : NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2
			}'
}

calculate() {
	awk "BEGIN { printf \"%.12g\n\", $1 }"
}

least() {
	printf '%s\n' "$@" | sort -g | head -n 1
}

# row WHAT OURS THEIRS TARGET [FORMAT]: the ratio of the two against a target such as ">= 0.85"; no target, no verdict.
row() {
	awk -v what="$1" -v ours="$2" -v theirs="$3" -v target="$4" -v fmt="${5:-%.2f}" 'BEGIN {
		split(target, t, " ")
		ratio = theirs > 0 ? ours / theirs : 0
		met = theirs > 0 && (t[1] == ">=" ? ratio >= t[2] : ratio <= t[2])
		printf "%-48s " fmt " %11s %8.3f  %-8s %s\n", what, ours, theirs == "" ? "" : sprintf(fmt, theirs), ratio,
			target, target == "" ? "" : met ? "pass" : "MISS"
	}'
}

heading() {
	printf '\n%-48s %11s %11s %8s  %s\n' "$1" ours theirs ratio target
}

figure='%11.2f'
