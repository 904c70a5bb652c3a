# SPDX-License-Identifier: MIT
"""Compares the memory of two stopped machines: byte by byte, all of their RAM blocks."""

import os
import re

from machine import Failure

PAGE = 4096
CHUNK = 1 << 20
BLOCK = re.compile(r"^\s*(\S+)\s+\S+ \S+\s+0x\w+\s+0x(\w+)\s+0x\w+\s+0x(\w+)", re.MULTILINE)


def blocks(machine):
    """Name: (address in the process, bytes used). Empty where QEMU does not tell addresses."""
    text = machine.qmp.command("human-monitor-command", command_line="info ramblock")
    return {name: (int(address, 16), int(used, 16)) for name, used, address in BLOCK.findall(text)}


def saved(machine):
    """All RAM in a file, as QEMU writes it: slow, and without ROMs."""
    path = os.path.abspath(f"{machine.folder}/memory")
    machine.qmp.command("pmemsave", val=0, size=machine.spec.memory << 20, filename=path)
    return path


def differing(file_a, file_b, start_a, start_b, length):
    """Offsets of the pages that differ."""
    pages = []
    for offset in range(0, length, CHUNK):
        size = min(CHUNK, length - offset)
        a = os.pread(file_a.fileno(), size, start_a + offset)
        b = os.pread(file_b.fileno(), size, start_b + offset)
        if len(a) != size or len(b) != size:
            raise Failure(f"memory at {offset:#x}: {len(a)} and {len(b)} of {size} bytes read")
        if a != b:
            pages += [offset + at for at in range(0, size, PAGE)
                      if a[at:at + PAGE] != b[at:at + PAGE]]
    return pages


def complain(name, pages):
    if pages:
        some = ", ".join(f"{page:#x}" for page in pages[:8])
        raise Failure(f"{len(pages)} pages of {name} differ at the destination: {some}")


def compare_saved(source, destination):
    paths = [saved(machine) for machine in (source, destination)]
    size = source.spec.memory << 20
    with open(paths[0], "rb") as a, open(paths[1], "rb") as b:
        complain("RAM", differing(a, b, 0, 0, size))
    for path in paths:
        os.unlink(path)


def compare(source, destination):
    """Returns how many bytes were compared."""
    a, b = blocks(source), blocks(destination)
    if not a:
        compare_saved(source, destination)
        return source.spec.memory << 20
    lengths = [{name: used for name, (_, used) in one.items()} for one in (a, b)]
    if lengths[0] != lengths[1]:
        raise Failure(f"blocks: {lengths[0]} at the source, {lengths[1]} at the destination")
    if a.get("pc.ram", (0, 0))[1] != source.spec.memory << 20:
        raise Failure(f"pc.ram is not the guest's memory: {lengths[0]}")
    paths = [f"/proc/{machine.process.pid}/mem" for machine in (source, destination)]
    with open(paths[0], "rb", buffering=0) as mem_a, open(paths[1], "rb", buffering=0) as mem_b:
        for name, (address, used) in a.items():
            complain(name, differing(mem_a, mem_b, address, b[name][0], used))
    return sum(lengths[0].values())
