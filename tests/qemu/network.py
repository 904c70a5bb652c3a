# SPDX-License-Identifier: MIT
"""A bridge with a port for each host's machine, and the process that a guest holds a connection to.

All of it is in a network namespace of its own, see lab.enter_namespace()."""

import socket
import subprocess
import threading
import time

from machine import Failure

PERIOD_S = 0.005
RECORD = 64
GUEST_SEED, HOST_SEED = 1, 2
MASK = (1 << 64) - 1
STEP = 0x9E3779B97F4A7C15


def _mix(x):
    x ^= x >> 32
    x = x * 0xD6E8FEB86659FD93 & MASK
    return x ^ x >> 32


def record(origin, number):
    """The bytes of seed_of() and fill() in guest/content.c."""
    seed = _mix((_mix(origin + 1) + number * STEP) & MASK)
    words = []
    for _ in range(RECORD // 8):
        seed = (seed + STEP) & MASK
        words.append((seed ^ seed >> 29).to_bytes(8, "little"))
    return b"".join(words)


def ip(*words):
    subprocess.run(["ip", *words], check=True, stdin=subprocess.DEVNULL)


class Network:
    guest_address = 0x0A4D0002  # 10.77.0.2
    peer_address = 0x0A4D0001

    def __init__(self, hosts):
        ip("link", "set", "lo", "up")
        ip("link", "add", "bridge0", "type", "bridge", "forward_delay", "0")
        ip("address", "add", "10.77.0.1/24", "dev", "bridge0")
        ip("link", "set", "bridge0", "up")
        for host in hosts:
            ip("tuntap", "add", "dev", self.tap(host), "mode", "tap")
            ip("link", "set", self.tap(host), "master", "bridge0")
            ip("link", "set", self.tap(host), "up")
        self.listener = socket.create_server(("10.77.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.sent = self.received = self.connections = 0
        self.connection = None
        self.fault = None
        threading.Thread(target=self._accept, daemon=True).start()

    @staticmethod
    def tap(host):
        return f"tap-{host}"

    def check(self):
        if self.fault:
            raise Failure(f"the host's end of the guest's connection: {self.fault}")
        if self.connections > 1:
            raise Failure(f"the guest has connected {self.connections} times")

    def cut(self):
        """Ends the guest's connection."""
        self.connection.shutdown(socket.SHUT_RDWR)

    def _accept(self):
        while True:
            connection, _ = self.listener.accept()
            self.connection = connection
            self.connections += 1
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for work in (self._send, self._receive):
                threading.Thread(target=self._guard, args=(work, connection), daemon=True).start()

    def _guard(self, work, connection):
        try:
            work(connection)
        except OSError as error:
            self.fault = self.fault or f"after {self.sent} and {self.received} records: {error}"

    def _send(self, connection):
        while True:
            connection.sendall(record(HOST_SEED, self.sent))
            self.sent += 1
            time.sleep(PERIOD_S)

    def _receive(self, connection):
        buffer = b""
        while data := connection.recv(1 << 16):
            buffer += data
            while len(buffer) >= RECORD:
                if buffer[:RECORD] != record(GUEST_SEED, self.received):
                    raise OSError("that is not the record that the guest sends here")
                buffer = buffer[RECORD:]
                self.received += 1
        raise OSError("closed")
