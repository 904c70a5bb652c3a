# SPDX-License-Identifier: MIT
"""One migration between two QEMUs, driven by their monitors as libvirt does it."""

import os
import time
from dataclasses import dataclass, replace

from machine import Failure, wait_until
from qmp import QmpError, QmpGone

MIGRATION_S = 180
PATIENCE_S = 30
DOWNTIME_MAX = 2000  # ms
# QEMU's own word for "no limit" differs between versions; this is above what can be.
UNLIMITED = 1 << 40
OVER = ("completed", "failed", "cancelled", "gone")


@dataclass
class Options:
    """How a migration is done."""

    channels: int = 0  # of multifd; 0: one stream
    return_path: bool = True
    pause: bool = False  # pause-before-switchover
    downtime: int = 30  # ms
    paused: bool = True  # the destination waits for "cont" (-S)
    bandwidth: int = UNLIMITED
    xbzrle: bool = False
    compression: str = "none"  # of multifd
    postcopy: bool = False

    def capabilities(self):
        wanted = {
            "events": True, "multifd": self.channels > 0, "return-path": self.return_path,
            "pause-before-switchover": self.pause, "postcopy-ram": self.postcopy,
            "xbzrle": self.xbzrle,
        }
        return [{"capability": name, "state": state} for name, state in wanted.items()]


def set_up(machine, options):
    machine.qmp.command("migrate-set-capabilities", capabilities=options.capabilities())
    machine.qmp.command("migrate-set-parameters", max_bandwidth=options.bandwidth,
                        downtime_limit=options.downtime, multifd_channels=options.channels or 2,
                        multifd_compression=options.compression)


def begin(source, destination, options, road):
    """Starts it. Returns at once: the source's monitor tells how it goes."""
    set_up(destination, options)
    set_up(source, options)
    incoming, outgoing = road.paths(source.host, destination.host)
    if os.path.exists(incoming):
        os.unlink(incoming)
    destination.qmp.command("migrate-incoming", uri=f"unix:{incoming}")
    source.qmp.command("migrate", uri=f"unix:{outgoing}")
    if options.postcopy:
        wait_until(lambda: source.migration() == "active", MIGRATION_S, "the source has connected")
        source.qmp.command("migrate-start-postcopy")


def next_state(source):
    """Its state; one that waits to be let go on is let go on."""
    state = source.migration()
    if state == "pre-switchover":
        try:
            source.qmp.command("migrate-continue", state="pre-switchover")
        except (QmpError, QmpGone):
            pass  # It has failed, or ended, in between.
    return state


def is_over(source, options, begun):
    """As an administrator would, allows a longer downtime to a guest that outruns a busy host."""
    if time.monotonic() - begun > PATIENCE_S and options.downtime < DOWNTIME_MAX:
        options.downtime = DOWNTIME_MAX
        source.qmp.command("migrate-set-parameters", downtime_limit=DOWNTIME_MAX)
    return next_state(source) in OVER


def await_completed(source, destination, options):
    """Both say so, the source's vCPUs are stopped, and the destination's as well."""
    options = replace(options)
    begun = time.monotonic()
    wait_until(lambda: is_over(source, options, begun), MIGRATION_S,
               "the source's migration is over")
    if source.migration() != "completed":
        info = source.qmp.command("query-migrate")
        raise Failure(f"the source's migration: {info.get('status')}: {info.get('error-desc')}; "
                      f"destination: {destination.log()}")
    wait_until(lambda: destination.migration() in OVER, MIGRATION_S,
               "the destination's migration is over")
    if destination.migration() != "completed":
        raise Failure("the destination's migration: "
                      f"{destination.migration()}: {destination.log()}")
    if source.status() != "postmigrate":
        raise Failure(f"the source is {source.status()} after its migration")


def await_paused(machine):
    wait_until(lambda: machine.status() == "paused", MIGRATION_S, f"{machine.name} is paused")
