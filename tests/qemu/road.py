# SPDX-License-Identifier: MIT
"""The ways that a migration's bytes take from one QEMU to the other."""

import json
import os
import signal
import subprocess
import time

from machine import Failure, wait_until
from network import ip

START_S = 30
REPORT_S = 30
END_S = 30
PORT = 7777


class Direct:
    """The source connects to the destination's own socket."""

    name = "direct"

    def paths(self, source, destination):
        """Where the destination listens, and where the source connects to."""
        path = f"{destination}.incoming"
        return path, path

    def check(self, source, since, spec, options):
        """Nothing of the road has failed in the migration from this host that began then."""

    def close(self):
        """Ends its processes."""


class Link:
    """Host a stays in this network namespace, host b gets its own; one cable joins them."""

    addresses = {"a": "10.78.0.1", "b": "10.78.0.2"}

    def __init__(self):
        self.holder = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"],
            stdin=subprocess.DEVNULL)
        own = os.readlink("/proc/self/ns/net")
        wait_until(lambda: self._namespace() not in (own, None), START_S, "host b's namespace")
        ip("link", "set", "lo", "up")
        ip("link", "add", "cable-a", "type", "veth", "peer", "name", "cable-b",
           "netns", str(self.holder.pid))
        ip("address", "add", f"{self.addresses['a']}/24", "dev", "cable-a")
        ip("link", "set", "cable-a", "up")
        for words in (f"address add {self.addresses['b']}/24 dev cable-b", "link set cable-b up",
                      "link set lo up"):
            subprocess.run([*self.enter("b"), "ip", *words.split()], check=True)

    def _namespace(self):
        try:
            return os.readlink(f"/proc/{self.holder.pid}/ns/net")
        except OSError:
            return None

    def enter(self, host):
        """The words before a command that is to run on this host."""
        return [] if host == "a" else ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net"]

    @staticmethod
    def set(state):
        """Pulls the cable, or puts it back."""
        ip("link", "set", "cable-a", state)

    def close(self):
        self.holder.kill()
        self.holder.wait()


class Adaptor:
    """qemu-send and qemu-receive on both hosts, which serve all migrations of a case."""

    def __init__(self, program, place, extra=(), live=False):
        self.name = f"adaptor, {place}{', live' if live else ''}"
        self.live = live
        self.program = program
        self.place = place
        self.extra = list(extra)
        self.link = Link()
        self.processes = {}
        for host in Link.addresses:
            self.start("receive", host)
        for host in Link.addresses:
            self.start("send", host)

    def paths(self, source, destination):
        return f"{destination}.incoming", f"{source}.outgoing"

    def _command(self, what, host):
        if what == "receive":
            uri = f"tcp:{Link.addresses[host]}:{PORT}"
            return [uri, "--incoming", os.path.abspath(f"{host}.incoming"), "--place", self.place,
                    *self.extra]
        other = "b" if host == "a" else "a"
        uri = f"tcp:{Link.addresses[other]}:{PORT}"
        command = [f"unix:{os.path.abspath(host)}.outgoing", uri]
        if self.live:
            command += ["--source", "live", "--qmp", os.path.abspath(f"{host}.memory-qmp")]
        return command

    def log_path(self, what, host):
        return os.path.abspath(f"{what}-{host}.log")

    def start(self, what, host):
        """Also in place of one that was killed."""
        command = ["setpriv", "--pdeathsig", "KILL", *self.link.enter(host), self.program,
                   f"qemu-{what}", *self._command(what, host), "--insecure",
                   "--json", os.path.abspath(f"{what}-{host}.json")]
        with open(self.log_path(what, host), "a", encoding="utf-8") as log:
            log.write(f"--- started at {time.monotonic():.3f}\n")
            log.flush()
            begin = log.tell()
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.processes[what, host] = process
        wait_until(lambda: "listening at" in self.log(what, host, begin)
                   or process.poll() is not None, START_S, f"qemu-{what} on {host} listens")
        if process.poll() is not None:
            raise Failure(f"qemu-{what} ended with {process.returncode}: {self.log(what, host)}")

    def log(self, what, host, begin=0):
        with open(self.log_path(what, host), encoding="utf-8", errors="replace") as file:
            file.seek(begin)
            return file.read()

    def report(self, what, host, since):
        """The report of a migration that was over after that moment (time.time())."""
        path = f"{what}-{host}.json"

        def read():
            try:
                if os.stat(path).st_mtime < since:
                    return None
                with open(path, encoding="utf-8") as file:
                    return json.load(file)
            except (FileNotFoundError, json.JSONDecodeError):
                return None
        return wait_until(read, REPORT_S, f"qemu-{what} on {host} reports")

    def check(self, source, since, spec, options):
        """All of its processes live, and RAM was placed as was asked for."""
        self.check_processes()
        report = self.report("send", source, since)
        if report["result"] != "completed":
            raise Failure(f"qemu-send on {source} reports {report['result']}: {report['reason']}")
        expected = spec.place if self.place == "auto" else self.place
        if report["source"] != ("live" if self.live else "payload"):
            raise Failure(f"qemu-send on {source} took pages from the {report['source']}")
        # Pages are moved by lanes until the first record of XBZRLE comes, if any does.
        if options.xbzrle:
            return
        # Lanes know pages, not these.
        if options.postcopy or options.compression != "none":
            expected = "forward"
        self._check_placement(report, expected, spec)

    def check_processes(self):
        for (what, host), process in self.processes.items():
            if process.poll() is not None:
                raise Failure(f"qemu-{what} on {host} ended with {process.returncode}: "
                              f"{self.log(what, host)[-2000:]}")

    @staticmethod
    def _check_placement(report, expected, spec):
        if expected == "forward":
            if report.get("pages", {}).get("moved", 0) != 0:
                raise Failure(f"pages were moved by lanes in spite of --place forward: {report}")
            return
        found = {block["name"]: block["placement"] for block in report["blocks"]}
        if found.get("pc.ram") != expected:
            raise Failure(f"RAM was placed otherwise than by {expected}: {report['blocks']}, "
                          f"{report['mode']}: {report['mode_reason']}")
        # A part of the guest's memory may be all zero, and no page is left to the stream.
        pages = report["pages"]
        if pages["moved"] < (spec.memory << 8) // 4:
            raise Failure(f"hardly any page was moved by lanes: {pages}")

    def end(self, what, host):
        """As an administrator ends a service: it says nothing of failure."""
        process = self.processes[what, host]
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(END_S)
        except subprocess.TimeoutExpired as error:
            raise Failure(f"qemu-{what} on {host} does not end by SIGTERM") from error
        if code != 0:
            raise Failure(f"qemu-{what} on {host} ended with {code}: "
                          f"{self.log(what, host)[-2000:]}")

    def kill(self, what, host):
        self.processes[what, host].kill()
        self.processes[what, host].wait()

    def close(self):
        for what, host in self.processes:
            self.kill(what, host)
        self.link.close()
