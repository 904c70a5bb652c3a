# shellcheck shell=bash
# SPDX-License-Identifier: MIT
# Sourced by perf/run and perf/rdma: the QEMUs whose guests go through vmferry's adaptor. They have $build_dir and die().
# shellcheck disable=SC2154

# Programs by version: this host's, and one of the backports if the host's is older than 10.0.
declare -A qemu_programs=()
qemu_versions=()

add_qemu() { # PROGRAM
	local version
	[[ $("$1" --version) =~ version\ ([0-9]+)(\.[0-9]+)+ ]] || die "$1: no QEMU"
	version=${BASH_REMATCH[0]#version }
	[[ ! ${qemu_programs[$version]:-} ]] || return 0
	qemu_programs[$version]=$1
	qemu_versions+=("$version")
	if lossy "$version"; then
		echo "QEMU $version loses dirty pages without KVM: its guest does not check them, and is measured again when it dies of it"
	fi
}

# Whether a migration by this version loses pages that an emulated guest writes: before 9.0.
lossy() { # VERSION
	[[ ${emulated:-} ]] && ((${1%%.*} < 9))
}

# Prints the program's path. The first time this takes packages from the release's backports.
newer_qemu() {
	tests/qemu/ten "$(realpath "$build_dir")/qemu-ten"
}

find_qemus() {
	local newer
	((${#qemu_versions[@]} == 0)) || return 0
	"$build_dir/migrator/cli/vmferry" qemu-send --help >/dev/null 2>&1 || die "$build_dir: this vmferry has no qemu-send"
	newer=$(newer_qemu) || die "no newer QEMU: $newer"
	add_qemu qemu-system-x86_64
	add_qemu "$newer"
}
