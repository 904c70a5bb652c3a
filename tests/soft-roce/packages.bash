#!/bin/bash
# SPDX-License-Identifier: MIT
# Sourced by scripts that make machines: Debian's packages, downloaded and unpacked without being installed. These scripts have die().

older() { # version than
	[[ $1 != "$2" && $(printf '%s\n' "$1" "$2" | sort -V | head -n 1) == "$1" ]]
}

qemu_version() {
	qemu-system-x86_64 --version | sed -n '1s/.* version \([0-9.]*\).*/\1/p'
}

# The package behind a metapackage, so that no version is named anywhere.
kernel() { # metapackage
	apt-cache depends --important "$1" 2>/dev/null | awk '$1 == "Depends:" && $2 ~ /^linux-image-/ { print $2; exit }'
}

# The packages given and all that they need and this host has not.
with_dependencies() { # package...
	apt-get -s install --no-install-recommends "$@" | awk '$1 == "Inst" { print $2 }'
}

download() { # directory package...
	local directory=$1 sandbox=()
	shift
	# apt's own user cannot write here.
	((EUID != 0)) || sandbox=(-o APT::Sandbox::User=root)
	(cd "$directory" && apt-get -q "${sandbox[@]}" download "$@" </dev/null >&2) ||
		die "could not download $*: see above. If the lists are old: sudo apt-get update"
}

# Debian's packages still name /bin and /lib, which are links to /usr/bin and /usr/lib on the host that they are laid over.
unpack() { # deb directory [tar argument...]
	local deb=$1 directory=$2
	shift 2
	dpkg-deb --fsys-tarfile "$deb" |
		tar x -C "$directory" --no-same-owner --transform='flags=r;s,^\./\(s\?bin\|lib\(64\)\?\)/,./usr/\1/,' "$@"
}

# Every module that the given ones need, and they themselves, in the order of loading. None for what the kernel has built in.
load_order() { # directory of the kernel's modules, module...
	awk '
		{ name = $1; sub(":", "", name); sub(".*/", "", name); sub("[.]ko$", "", name); gsub("-", "_", name) }
		FILENAME ~ /builtin$/ { built_in[name] = 1; next }
		FILENAME ~ /dep$/ { sub(":", "", $1); path[name] = $1; $1 = ""; needs[path[name]] = $0; next }
		function load(file,    list, n, i) {
			if (seen[file]++) return
			n = split(needs[file], list, " ")
			# The last one depends on nothing that stands before it.
			for (i = n; i > 0; i--) load(list[i])
			print file
		}
		name in built_in { next }
		!(name in path) { print "no module " name > "/dev/stderr"; exit 1 }
		{ load(path[name]) }
	' "$1"/modules.{builtin,dep} - < <(printf '%s\n' "${@:2}")
}

# The kernel within a bzImage (Documentation/x86/boot.rst), which QEMU enters by its PVH note: the emulated machine would need
# 7 s to go through its firmware and to unpack the kernel by itself. If it is packed in another way, it has to.
unwrap() { # bzImage vmlinux
	local begin offset length
	begin=$((($(od -An -tu1 -j 0x1f1 -N 1 "$1") + 1) * 512))
	read -r offset length < <(od -An -tu4 -j 0x248 -N 8 "$1")
	# Behind what is packed stand four bytes that say how long it is unpacked.
	head -c $((begin + offset + length - 4)) "$1" | tail -c $((length - 4)) >"$1.payload"
	case $(od -An -tx1 -N 4 "$1.payload") in
	' fd 37 7a 58') xz -dcq --single-stream "$1.payload" ;;
	' 28 b5 2f fd') zstd -dcq "$1.payload" ;;
	*) false ;;
	esac >"$2"
}
