# SPDX-License-Identifier: MIT
# Who may include whom. Arrows run one way: cli -> {vmm, qemu} -> public headers <- engine -> {dirty, transport}.
BEGIN {
	may["include"] = " include "
	may["common"] = " include common "
	may["transport"] = " include common transport "
	may["dirty"] = " include common dirty "
	may["kvm"] = " include common kvm "
	may["engine"] = " include common dirty engine "
	may["vmm"] = " include vmm "
	may["qemu"] = " include qemu "
	may["cli"] = " include vmm qemu cli "
	for (part in may)
		parts[part]
}

FNR == 1 {
	layer = part_of(FILENAME)
	directory = FILENAME
	sub(/[^\/]*$/, "", directory)
}

(layer in may) && /^[ \t]*#[ \t]*include[ \t]*["<]/ {
	name = $0
	sub(/^[^"<]*["<]/, "", name)
	sub(/[">].*/, "", name)
	target = part_of(resolve(name, $0 ~ /"/))
	if (target in parts && index(may[layer], " " target " ") == 0)
		printf "%s:%d: %s may not include %s (%s)\n", FILENAME, FNR, layer, target, name
}

function part_of(path)
{
	sub(/^migrator\//, "", path)
	sub(/\/.*/, "", path)
	return path
}

# The path below the top that an include means, or the name itself if it is none of our files.
function resolve(name, quoted,    candidates, n, i, line)
{
	n = split(directory name "|include/" name "|" name "|migrator/" name, candidates, "|")
	for (i = quoted ? 1 : 2; i <= n; i++) {
		while (sub(/[^\/]+\/\.\.\//, "", candidates[i]))
			;
		if ((getline line < candidates[i]) >= 0) {
			close(candidates[i])
			return candidates[i]
		}
	}
	return "/" name
}
