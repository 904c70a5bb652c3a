#!/bin/bash
# SPDX-License-Identifier: MIT
# Sourced by prepare: packages of the release's backports, without root and without a change to this host's apt.

# Before the others. Fails where the release has no backports, or they cannot be reached.
backports_find() { # folder
	local codename mirror
	# shellcheck source=/dev/null
	codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
	# shellcheck disable=SC2016 # apt's own variables
	mirror=$(apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
		awk -v name="$codename" '$1 == "Debian" && $2 == name && $3 == "main" { print $4; exit }')
	[[ $mirror ]] || return
	mkdir -p "$1/lists/partial" "$1/parts"
	echo "deb $mirror $codename-backports main" >"$1/sources.list"
	cat >"$1/apt.conf" <<-END
		Dir::State::lists "$1/lists";
		Dir::Cache "$1/cache";
		Dir::Etc::sourcelist "$1/sources.list";
		Dir::Etc::sourceparts "$1/parts";
		APT::Default-Release "$codename-backports";
	END
	backports=$1
	((EUID != 0)) || echo 'APT::Sandbox::User "root";' >>"$1/apt.conf"
	in_backports apt-get -q update </dev/null >&2
}

# A command for which the backports are all that there is.
in_backports() { # command...
	APT_CONFIG=$backports/apt.conf "$@"
}
