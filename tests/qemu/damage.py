# SPDX-License-Identifier: MIT
"""Shows that the other cases can fail: spoils what was moved, and waits until it is noticed."""

import os

from machine import Failure, wait_until
from memory import PAGE, blocks, compare
from network import MASK, STEP

NOTICE_S = 120


def follows(old, new):
    """Whether two words are neighbours in what fill() of guest/content.c makes."""
    return (new ^ new >> 29 ^ new >> 58) - (old ^ old >> 29 ^ old >> 58) & MASK == STEP


def page_of_guest(machine, linux):
    """Address in QEMU of a page that the guest will check: of the upper half of memory."""
    address, length = blocks(machine)["pc.ram"]
    with open(f"/proc/{machine.process.pid}/mem", "rb", buffering=0) as memory:
        for at in range(address + length // 2, address + length, PAGE):
            page = os.pread(memory.fileno(), PAGE, at)
            words = [int.from_bytes(page[i:i + 8], "little") for i in range(0, 24, 8)]
            if linux and follows(*words[:2]) and follows(*words[1:]):
                return at
            if not linux and any(words):
                return at
    raise Failure(f"{machine.name}: no page with the guest's content")


def spoil_memory(machine, linux):
    at = page_of_guest(machine, linux) + 1234
    with open(f"/proc/{machine.process.pid}/mem", "r+b", buffering=0) as memory:
        byte = os.pread(memory.fileno(), 1, at)[0]
        os.pwrite(memory.fileno(), bytes([byte ^ 1]), at)


def expect(what, check):
    """The check fails, and says this, perhaps among other things."""
    seen = [None]

    def notices():
        try:
            check()
        except Failure as failure:
            seen[0] = failure
        return what in str(seen[0])
    wait_until(notices, NOTICE_S, f"somebody notices: {what}")
    print("noticed:", seen[0], flush=True)


def damage_and_notice(lab, source, options):
    linux = lab.case.guest == "linux"
    destination = lab.transfer(source, options)
    compare(source, destination)
    spoil_memory(destination, linux)
    expect("1 pages of pc.ram differ", lambda: compare(source, destination))
    if linux:
        lab.guest.network.cut()
        expect("the host's end", lab.guest.network.check)
        lab.guest.network.fault = None
    destination.qmp.command("cont")
    expect("memory: page" if linux else "found a fault", lab.guest.check)
    if linux:
        expect("peer: ", lab.guest.check)
