#!/bin/bash
# SPDX-License-Identifier: MIT
# Sourced. Prints the script that runs a command with this environment and in this directory, somewhere else.
command_script() { # argument...
	export -p
	# What the machine that runs it says of itself.
	echo '[[ ! -e /run/lab/environment ]] || . /run/lab/environment'
	printf 'cd %q || exit 125\n' "$PWD"
	printf 'exec'
	printf ' %q' "$@"
	echo
}
