# SPDX-License-Identifier: MIT
"""A QEMU process, its monitor, and the files that its guest writes to."""

import os
import subprocess
import time
from dataclasses import dataclass

from qmp import Qmp, QmpGone

START_S = 60
QUIT_S = 30
# A machine whose state is one of these has vCPUs that run.
RUNNING = ("running",)


class Failure(Exception):
    """A test's expectation that did not hold."""


def wait_until(condition, seconds, what):
    """Returns what the condition returned as soon as that is true."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise Failure(f"not in {seconds} s: {what}")
        time.sleep(0.005)
    return result


@dataclass
class Spec:
    """What source and destination have in common."""

    qemu: str
    accel: str  # kvm or tcg
    place: str  # mapped: memory in a shared memfd; process: private memory
    memory: int  # MiB
    machine: str = "q35"
    cpus: int = 1

    def arguments(self):
        backend = "memory-backend-ram"
        if self.place == "mapped":
            backend = "memory-backend-memfd,share=on"
        # On an AMD host under PVM KVM cannot set the MSR of arch-capabilities. "Fast" string
        # instructions are emulated byte by byte.
        cpu = "host,-arch-capabilities" if self.accel == "kvm" else "max,la57=off,erms=off,fsrm=off"
        return [
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-accel", self.accel, "-cpu", cpu, "-smp", str(self.cpus), "-m", f"{self.memory}M",
            "-M", f"{self.machine},memory-backend=pc.ram",
            "-object", f"{backend},id=pc.ram,size={self.memory}M",
        ]


class Machine:
    """Ends with this process, also when that is killed."""

    def __init__(self, name, spec, guest, incoming=False, paused=True):
        """@name begins with the host's. Relative paths: a socket's has 107 characters at most."""
        self.name = name
        self.host = name[0]
        self.spec = spec
        self.folder = name
        os.mkdir(self.folder)
        self.qmp_path = f"{name}.qmp"
        arguments = ["setpriv", "--pdeathsig", "KILL", spec.qemu, "-name", name]
        arguments += spec.arguments() + guest.arguments(self)
        # The second is for the adaptor, which asks where memory is: a socket serves one client.
        for path in (self.qmp_path, f"{self.host}.memory-qmp"):
            arguments += ["-qmp", f"unix:{path},server=on,wait=off"]
        if incoming:
            arguments += ["-incoming", "defer"]
        if incoming and paused:
            arguments.append("-S")
        with open(f"{self.folder}/qemu", "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self.qmp = Qmp(self.qmp_path, time.monotonic() + START_S)
        except (OSError, QmpGone) as error:
            self.kill()
            raise Failure(f"{name} does not start: {error}; {self.log()}") from error

    def log(self):
        with open(f"{self.folder}/qemu", encoding="utf-8", errors="replace") as file:
            return file.read()[-2000:].strip()

    def port(self, name):
        """What the guest has written to this port of this machine so far."""
        with open(f"{self.folder}/{name}", "rb") as file:
            return file.read()

    def alive(self):
        return self.process.poll() is None

    def status(self):
        """QEMU's run state, "gone" when the process has ended."""
        try:
            return self.qmp.command("query-status")["status"]
        except QmpGone:
            wait_until(lambda: not self.alive(), QUIT_S,
                       f"{self.name} ends after it has closed its monitor")
            return "gone"

    def runs(self):
        return self.status() in RUNNING

    def migration(self):
        """The state of its migration, "none" before it and "gone" when the process has ended."""
        try:
            return self.qmp.command("query-migrate").get("status", "none")
        except QmpGone:
            return "gone"

    def write_threads(self):
        """Where each of its threads stands, for whoever asks why it did not answer."""
        folder = f"/proc/{self.process.pid}/task"
        with open(f"{self.folder}/threads", "w", encoding="utf-8") as out:
            for task in os.listdir(folder):
                for name in ("comm", "wchan", "syscall"):
                    with open(f"{folder}/{task}/{name}", encoding="utf-8") as file:
                        out.write(f"{task} {name}: {file.read().strip()}\n")
        with open(f"{self.folder}/sockets", "w", encoding="utf-8") as out:
            for fd in os.listdir(f"/proc/{self.process.pid}/fd"):
                out.write(f"{fd} {os.readlink(f'/proc/{self.process.pid}/fd/{fd}')}\n")

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def quit(self):
        """Ends it as an administrator does: disks are closed, and the exit status is 0."""
        try:
            self.qmp.command("quit")
        except QmpGone:
            pass
        try:
            code = self.process.wait(QUIT_S)
        except subprocess.TimeoutExpired as error:
            raise Failure(f"{self.name} does not quit") from error
        if code != 0:
            raise Failure(f"{self.name} ended with {code}: {self.log()}")
