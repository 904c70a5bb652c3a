# SPDX-License-Identifier: MIT
# Lines of more than 100 columns, with tabs of eight. Documents of JSON, with their escaped quotes, are not broken.
BEGIN {
	columns_max = 100
}

length($0) * 8 > columns_max && !/\\"/ {
	columns = 0
	for (i = 1; i <= length($0); i++)
		columns = substr($0, i, 1) == "\t" ? columns + 8 - columns % 8 : columns + 1
	if (columns > columns_max)
		printf "%s:%d: %d columns, more than %d\n", FILENAME, FNR, columns, columns_max
}
