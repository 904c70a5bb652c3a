#!/bin/bash
# SPDX-License-Identifier: MIT
# Sourced. What to make of an emulated kernel that has panicked: that says nothing of the command that ran on it.

# The exit code of `run` for it.
panicked=123

# What a console's kernel panicked of, if it did.
panic_of() { # console
	tr -d '\r' <"$1" | sed -n 's/^\(\[[^]]*\] *\)\{0,1\}Kernel panic - not syncing: *//p' | head -n 1
}

# The first panic among these consoles, with its machine's number.
first_panic() { # console...
	local console cause
	for console in "$@"; do
		[[ -f $console ]] || continue
		cause=$(panic_of "$console")
		[[ ! $cause ]] || {
			console=${console##*/}
			echo "machine ${console%.console}: $cause"
			return
		}
	done
	return 1
}

# Runs a command that ends with that code when a kernel panicked, and a second time if it did. Each panic is told in a line of its own,
# which tests/run shows and .ci/run counts.
retry_panicked() { # name command...
	local name=$1 code=0 try
	shift
	for try in 1 2; do
		code=0
		"$@" || code=$?
		((code == panicked)) || break
		echo "PANICKED $name: an emulated machine's kernel, in try $try of 2"
	done
	return "$code"
}
