# SPDX-License-Identifier: MIT
"""The guests that are moved: what they need of a machine, and what they say of themselves."""

import os
import re
import shutil
import subprocess

from machine import Failure, wait_until

READY_S = 240
PROGRESS_S = 120
# What the guest's clock may be ahead of the host's at the end of a run: reports are read with a
# delay, and the kernel measures the frequency of its clock.
AHEAD_S = 0.5
AHEAD_SHARE = 0.02


def host_khz():
    """The TSC's frequency, which TCG hands through: a guest on a busy host cannot measure it."""
    with open("/proc/cpuinfo", encoding="ascii") as file:
        return int(float(re.search(r"cpu MHz\s*: ([0-9.]+)", file.read()).group(1)) * 1000)


class BareGuest:
    """The tree's reference guest: checks all of its memory, and writes a byte for each finding."""

    name = "bare"

    def __init__(self, image, memory, rate):
        self.image = image
        working_set = memory // 2
        self.words = f"fill=all ws={working_set}M rate={rate} zero=10 scrub=400M heartbeat=100"
        self.machines = []

    def arguments(self, machine):
        self.machines.append(machine)
        words = self.words
        if machine.spec.accel == "tcg":
            words += f" tsc={host_khz() * 1000}"
        arguments = ["-kernel", self.image, "-append", words]
        for port, name in ((0xE9, "console"), (0xEA, "beats"), (0xEB, "status")):
            arguments += ["-chardev", f"file,id={name},path={machine.folder}/{name}"]
            arguments += ["-device", f"isa-debugcon,iobase={port:#x},chardev={name}"]
        return arguments

    def check(self):
        for machine in self.machines:
            if b"F" in machine.port("status"):
                console = machine.port("console").decode(errors="replace")
                raise Failure(f"{machine.name}: the guest found a fault: {console[-600:]}")

    def _count(self, machine, byte):
        self.check()
        if not machine.alive():
            raise Failure(f"{machine.name} ended under its guest: {machine.log()}")
        return machine.port("status").count(byte)

    def await_ready(self, machine):
        wait_until(lambda: self._count(machine, b"R"), READY_S, "the guest is ready")

    def await_progress(self, machine):
        """All memory has been checked by a pass that began here."""
        passes = self._count(machine, b"S") + 2
        wait_until(lambda: self._count(machine, b"S") >= passes, PROGRESS_S,
                   "the guest has checked all of its memory")


class LinuxGuest:
    """Debian's kernel and our program: memory, files, a connection and clocks."""

    name = "linux"
    counters = ("writes", "passes", "files", "reads", "sent", "received", "ticks")

    def __init__(self, folder, cache, program, disk, network, memory, rate):
        self.cache = cache
        self.disk = disk
        self.network = network
        self.initramfs = f"{folder}/initramfs"
        self.machines = []
        self._make_initramfs(folder, program)
        options = {
            "work_memory": memory * 3 // 8, "work_rate": rate, "work_port": network.port,
            "work_peer": hex(network.peer_address), "work_address": hex(network.guest_address),
        }
        self.line = ("console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off nowatchdog "
                     f"no_timer_check cryptomgr.notests tsc=reliable tsc_early_khz={host_khz()} ")
        self.line += " ".join(f"{name}={value}" for name, value in options.items())

    def _make_initramfs(self, folder, program):
        """An archive behind another one is unpacked over it."""
        os.mkdir(f"{folder}/root")
        shutil.copy(program, f"{folder}/root/init")
        with open(self.initramfs, "wb") as file:
            with open(f"{self.cache}/initramfs", "rb") as modules:
                shutil.copyfileobj(modules, file)
            file.flush()
            subprocess.run([f"{self.cache}/busybox", "cpio", "-o", "-H", "newc"],
                           input=b"init\n", cwd=f"{folder}/root", stdout=file,
                           stderr=subprocess.DEVNULL, check=True)

    def arguments(self, machine):
        self.machines.append(machine)
        folder = machine.folder
        return [
            "-kernel", f"{self.cache}/vmlinux", "-initrd", self.initramfs, "-append", self.line,
            "-serial", f"file:{folder}/console",
            "-device", "virtio-serial-pci",
            "-chardev", f"file,id=report,path={folder}/report",
            "-device", "virtserialport,name=report,chardev=report",
            "-drive", f"file={self.disk},format=qcow2,if=none,id=disk",
            "-device", "virtio-blk-pci,drive=disk",
            "-netdev",
            f"tap,id=net,ifname={self.network.tap(machine.host)},script=no,downscript=no",
            "-device", "virtio-net-pci,netdev=net,romfile=,mac=52:54:00:78:00:02",
        ]

    def check(self):
        for machine in self.machines:
            errors = re.findall(rb"^error .*$", machine.port("report"), re.MULTILINE)
            if errors:
                text = b"; ".join(errors[:5]).decode(errors="replace")
                raise Failure(f"{machine.name}: the guest found {len(errors)} errors: {text}")
            console = machine.port("console").decode(errors="replace")
            if re.search(r"^guest: |Kernel panic|BUG:|Oops|rcu: INFO", console, re.MULTILINE):
                raise Failure(f"{machine.name}: the guest's console: {console[-1500:]}")
        self.network.check()

    def reports(self, machine):
        """All whole lines of counters, in order."""
        lines = re.findall(rb"^report (.*)\n", machine.port("report"), re.MULTILINE)
        return [{k: int(v) for k, v in (w.split("=") for w in line.decode().split())}
                for line in lines]

    def _counters_since(self, machine, old):
        """The newest counters when every one of them has grown, None before."""
        self.check()
        if not machine.alive():
            raise Failure(f"{machine.name} ended under its guest: {machine.log()}")
        reports = self.reports(machine)
        if reports and all(reports[-1][name] > old.get(name, 0) for name in self.counters):
            return reports[-1]
        return None

    def await_ready(self, machine):
        wait_until(lambda: self._counters_since(machine, {}), READY_S,
                   "all work goes on in the guest")

    def await_progress(self, machine):
        """All work has gone on here, and a pass over all memory has begun and ended here."""
        self.check()
        first = wait_until(lambda: self.reports(machine), PROGRESS_S, "the guest reports")[-1]
        first["passes"] += 1
        wait_until(lambda: self._counters_since(machine, first), PROGRESS_S,
                   f"all work has gone on since {first}")
        received, sent = self.network.received, self.network.sent
        wait_until(lambda: self.network.received > received and self.network.sent > sent,
                   PROGRESS_S, "the host's end of the connection goes on")
