# SPDX-License-Identifier: MIT
"""What a case runs in: a network namespace, a folder, two hosts, and one machine after another."""

import os
import shutil
import subprocess
import sys
import tempfile
import time

from guests import BareGuest, LinuxGuest
from machine import Failure, Machine, Spec
from memory import compare
from migrate import await_completed, await_paused, begin
from network import Network
from road import Adaptor, Direct

HOSTS = ("a", "b")
MARK = "VMFERRY_QEMU_NAMESPACE"
SKIPPED = 77
TCG_RATE = 50  # MiB/s


class Skip(Exception):
    """Why a case cannot be run here."""


def enter_namespace():
    """Starts this program anew in a network namespace, where names are free and nothing stays."""
    if os.environ.get(MARK):
        return
    words = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--net", "--map-root-user"]
    if subprocess.run([*words, "true"], stderr=subprocess.DEVNULL, check=False).returncode != 0:
        print("no network namespace can be made here: that takes root, or user namespaces")
        sys.exit(SKIPPED)
    os.environ[MARK] = "1"
    os.execvp("unshare", [*words, sys.executable, *sys.argv])


def has_kvm():
    try:
        os.close(os.open("/dev/kvm", os.O_RDWR))
        return True
    except OSError:
        return False


def prepared(script, cache):
    """Runs a script that fills a cache, and returns the last line that it prints."""
    here = os.path.dirname(os.path.abspath(__file__))
    result = subprocess.run([f"{here}/{script}", cache], stdout=subprocess.PIPE, text=True,
                            stdin=subprocess.DEVNULL, check=False)
    if result.returncode == SKIPPED:
        raise Skip(f"{script} could not get what it needs, see above")
    if result.returncode != 0:
        raise Failure(f"{script} failed, see above: {result.stdout.strip()}")
    return result.stdout.strip().split("\n")[-1]


def guest_cache(build):
    return f"{build}/qemu-guest"


def choose_qemu(build, case):
    """A program and an accelerator that do not lose dirty pages by themselves."""
    kvm = has_kvm() and case.guest == "bare"
    if case.qemu == "release" and not kvm:
        raise Skip("this release's QEMU before 9.0 loses dirty pages under TCG: it takes /dev/kvm")
    if case.qemu == "release":
        return "qemu-system-x86_64", "kvm"
    return prepared("ten", f"{build}/qemu-ten"), "kvm" if kvm else "tcg"


def prepare(build, case):
    """Fills the caches, which takes the network of the host."""
    choose_qemu(build, case)
    if case.guest == "linux":
        prepared("prepare", guest_cache(build))


class Lab:
    """One guest and all machines that it ever runs on. Ends everything that it started."""

    def __init__(self, build, case):
        self.case = case
        self.build = build
        self.folder = tempfile.mkdtemp(prefix="qemu-run.", dir=build)
        os.chdir(self.folder)
        self.machines = []
        self.road = None
        self.serial = 0

    def __enter__(self):
        try:
            self.road = self._make_road()
            self.spec = Spec(*choose_qemu(self.build, self.case), self.case.place,
                             self.case.memory, self.case.machine)
            if self.case.guest == "linux":
                self.guest = self._linux_guest()
            else:
                image = f"{self.build}/migrator/vmm/guest/vmferry-guest.elf"
                # An emulated processor gets no faster by being asked to, only its host slower.
                rate = self.case.rate if self.spec.accel == "kvm" else min(self.case.rate, TCG_RATE)
                self.guest = BareGuest(image, self.case.memory, f"{rate}M")
            return self
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise

    def __exit__(self, kind, *_):
        for machine in self.machines:
            if kind and machine.alive():
                machine.write_threads()
            machine.kill()
        if self.road:
            self.road.close()
        os.chdir(self.build)
        if kind is None or issubclass(kind, Skip):
            shutil.rmtree(self.folder)
            return
        # Those of the last failure are kept.
        kept = f"{self.build}/qemu-failed"
        shutil.rmtree(kept, ignore_errors=True)
        os.rename(self.folder, kept)
        print(f"the machines' files are in {kept}")

    def _make_road(self):
        if self.case.road == "direct":
            return Direct()
        program = f"{self.build}/migrator/cli/vmferry"
        extra = ["--allow-autostart"] if self.case.allow_autostart else []
        return Adaptor(program, self.case.road, extra, self.case.live)

    def _linux_guest(self):
        cache = guest_cache(self.build)
        disk = os.path.abspath("disk.qcow2")
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", f"{cache}/disk.raw", disk],
                       check=True)
        program = f"{self.build}/tests/qemu/qemu-guest-work"
        return LinuxGuest(self.folder, cache, program, disk, Network(HOSTS), self.case.memory,
                          self.case.rate)

    def start(self, host, incoming=False, paused=True):
        self.serial += 1
        machine = Machine(f"{host}{self.serial}", self.spec, self.guest, incoming, paused)
        self.machines.append(machine)
        return machine

    def transfer(self, source, options):
        """To a new machine on the other host, which is returned as the migration leaves it."""
        host = HOSTS[1 - HOSTS.index(source.host)]
        destination = self.start(host, incoming=True, paused=options.paused)
        begin(source, destination, options, self.road)
        await_completed(source, destination, options)
        if options.paused:
            await_paused(destination)
        return destination

    def move(self, source, options):
        """To a new machine on the other host, which goes on with the guest and is returned."""
        times = [time.monotonic()]
        since = time.time()
        destination = self.transfer(source, options)
        times.append(time.monotonic())
        info = source.qmp.command("query-migrate")
        if options.paused:
            compare(source, destination)
            destination.qmp.command("cont")
        self.road.check(source.host, since, self.spec, options)
        source.quit()
        times.append(time.monotonic())
        self.guest.await_progress(destination)
        times.append(time.monotonic())
        spans = [b - a for a, b in zip(times, times[1:])]
        ram = info["ram"]
        print(f"{source.name} to {destination.name}: {spans[0]:.2f} s, "
              f"{ram['transferred'] >> 20} MiB in {ram['dirty-sync-count']} rounds, "
              f"downtime {info['downtime']} ms; "
              f"compared in {spans[1]:.1f} s, checked by the guest in {spans[2]:.1f} s", flush=True)
        return destination

    def finish(self, machine):
        """The last machine ends in order, and leaves its disk without a fault."""
        machine.quit()
        self.guest.check()
        if self.case.guest == "linux":
            check = subprocess.run(["qemu-img", "check", "-q", self.guest.disk], text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
            if check.returncode != 0:
                raise Failure(f"qemu-img check: {check.stdout}")
