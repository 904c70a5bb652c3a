# SPDX-License-Identifier: MIT
"""QEMU's monitor: commands with a deadline, and the events that came meanwhile."""

import json
import socket
import time

ANSWER_S = 60


class QmpError(Exception):
    """QEMU refused a command."""


class QmpGone(Exception):
    """QEMU has closed the connection: its process has ended, or is about to."""


class Qmp:
    def __init__(self, path, deadline):
        self.path = path
        self.events = []
        self.buffer = b""
        self.socket = socket.socket(socket.AF_UNIX)
        while True:
            try:
                self.socket.connect(path)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        self._message(ANSWER_S)
        self.command("qmp_capabilities")

    def close(self):
        self.socket.close()

    def command(self, name, timeout=ANSWER_S, **arguments):
        """Returns what QEMU returned. Argument names have "_" where QEMU has "-"."""
        arguments = {key.replace("_", "-"): value for key, value in arguments.items()}
        request = {"execute": name, "arguments": arguments}
        try:
            self.socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise QmpGone(f"{self.path}: {name}: {error}") from error
        deadline = time.monotonic() + timeout
        while True:
            message = self._message(deadline - time.monotonic())
            if message is None:
                raise TimeoutError(f"{self.path}: no answer to {name} in {timeout} s")
            if "error" in message:
                raise QmpError(f"{name}: {message['error']['desc']}")
            if "return" in message:
                return message["return"]
            self.events.append(message)

    def poll(self):
        """Takes in the events that have arrived."""
        while (message := self._message(0)) is not None:
            self.events.append(message)

    def _message(self, timeout):
        """The next message, None when there is none in time."""
        deadline = time.monotonic() + timeout
        while b"\n" not in self.buffer:
            self.socket.settimeout(max(deadline - time.monotonic(), 0.0001))
            try:
                data = self.socket.recv(1 << 16)
            except TimeoutError:
                if time.monotonic() >= deadline:
                    return None
                continue
            except OSError as error:
                raise QmpGone(f"{self.path}: {error}") from error
            if not data:
                raise QmpGone(f"{self.path}: closed")
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\n", 1)
        return json.loads(line)
