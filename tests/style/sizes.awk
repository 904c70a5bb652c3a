# SPDX-License-Identifier: MIT
# Functions of more than 60 lines and files of more than 700, unless the first file read, the list of exceptions, has them.
BEGIN {
	function_max = 60
	file_max = 700
}

FNR == 1 {
	close_file()
	file = FILENAME
	files++
}

files == 1 {
	if ($0 !~ /^#/ && NF)
		allowed[$0]
	next
}

# Kernel style: the braces of a function, and of nothing else that follows a parenthesis, stand in the first column.
/^[a-zA-Z_].*\(/ && !/;[ \t]*$/ {
	name = $0
	sub(/\(.*/, "", name)
	sub(/.*[ \t*]/, "", name)
}

/^{/ {
	start = FNR
}

/^}/ && start {
	if (FNR - start - 1 > function_max && !((file " " name) in allowed))
		printf "%s:%d: %s() has %d lines, more than %d\n", file, start, name, FNR - start - 1, function_max
	start = 0
}

{
	lines = FNR
}

END {
	close_file()
}

function close_file()
{
	if (files > 1 && lines > file_max && !(file in allowed))
		printf "%s:1: %d lines, more than %d\n", file, lines, file_max
	start = 0
	lines = 0
}
