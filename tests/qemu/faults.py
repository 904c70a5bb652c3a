# SPDX-License-Identifier: MIT
"""Ends a process, or the link, at moments of a migration, and looks who runs the guest then.

Never both machines. Before the migration is complete: the source, and the destination is gone. When
it is complete: the destination, as soon as whoever manages both has seen that and says so."""

import time
from dataclasses import replace

from machine import Failure, wait_until
from migrate import MIGRATION_S, OVER, begin, next_state
from qmp import QmpGone

SETTLE_S = 30
# A destination that nobody has connected to by then was not reached before the strike.
REACH_S = 3
# A migration that takes a second or two, so that its moments can be told apart.
BANDWIDTH = 48 << 20
HOST_OTHER = {"a": "b", "b": "a"}


def transferred(machine):
    return machine.qmp.command("query-migrate").get("ram", {}).get("transferred", 0)


def rounds(machine):
    return machine.qmp.command("query-migrate").get("ram", {}).get("dirty-sync-count", 0)


def at_once(_source, _destination):
    """As soon as it has been asked for."""


def at_share(percent):
    def wait(source, _destination):
        amount = (source.spec.memory << 20) * percent // 100
        wait_until(lambda: transferred(source) >= amount
                   or source.migration() in (*OVER, "pre-switchover"), MIGRATION_S, "bytes moved")
    return wait


def at_round(number):
    def wait(source, _destination):
        wait_until(lambda: rounds(source) >= number
                   or source.migration() in (*OVER, "pre-switchover"), MIGRATION_S, "rounds")
    return wait


def at_switchover(source, _destination):
    """The vCPUs are stopped, and nothing of the rest has been sent."""
    wait_until(lambda: source.migration() in (*OVER, "pre-switchover"), MIGRATION_S, "switchover")


def after_switchover(milliseconds):
    def wait(source, destination):
        at_switchover(source, destination)
        next_state(source)
        time.sleep(milliseconds / 1000)
    return wait


def at_end_of_source(source, _destination):
    wait_until(lambda: next_state(source) in OVER, MIGRATION_S, "the source is over")


def at_end_of_destination(source, destination):
    def over():
        next_state(source)
        return destination.migration() in OVER
    wait_until(over, MIGRATION_S, "the destination is over")


MOMENTS = [
    ("asked for", at_once),
    *((f"{n} % moved", at_share(n)) for n in (1, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100)),
    ("second round", at_round(2)),
    ("switchover", at_switchover),
    *((f"{n} ms after switchover", after_switchover(n)) for n in (0, 1, 2, 4, 8, 16)),
    ("source completed", at_end_of_source),
    ("destination completed", at_end_of_destination),
]


def strike(lab, victim, source, destination):
    """Ends it. What it returns puts back what others need for the next migration."""
    if victim in ("source", "destination"):
        (source if victim == "source" else destination).kill()
        return lambda: None
    if victim == "link":
        lab.road.link.set("down")
        return lambda: lab.road.link.set("up")
    host = source.host if victim == "send" else destination.host
    lab.road.kill(victim, host)
    return lambda: lab.road.start(victim, host)


def settle(source, destination):
    """Waits until neither will change by itself. Returns how both migrations ended."""
    begun = time.monotonic()

    def is_over(end):
        return end in ("completed", "gone") or end == "setup" and time.monotonic() > begun + REACH_S

    def states():
        running = [machine.runs() for machine in (source, destination)]
        if all(running):
            raise Failure("both machines run the guest")
        ends = next_state(source), destination.migration()
        # A source whose migration has failed has to run.
        settled = ends[0] in ("completed", "gone") or ends[0] in OVER and running[0]
        return ends if settled and is_over(ends[1]) else None
    try:
        return wait_until(states, SETTLE_S, "both machines have come to an end")
    except Failure as failure:
        raise Failure(f"{failure}; source: {source.status()}, {source.migration()}; destination: "
                      f"{destination.status()}, {destination.migration()}: {destination.log()}"
                      ) from failure


def who_goes_on(victim, options, ends, source, destination):
    """The machine that has to go on with the guest, None if it is lost with its only machine."""
    if ends == ("completed", "completed"):
        return destination
    if ends[0] == "completed":
        # Without a return path a source is content when its last bytes are in a socket.
        if victim != "destination" and options.return_path:
            raise Failure("the source takes it for complete, and the destination is gone")
        return source
    if ends[0] == "gone":
        if victim != "source":
            raise Failure(f"the source ended: {source.log()}")
        return destination if ends[1] == "completed" else None
    # It has failed. A destination that has everything need not know: it must not start by itself.
    if ends[1] == "completed" and not (options.paused and options.return_path):
        raise Failure("the destination has the guest, and the source goes on with it")
    return source


def hand_over(machine, others):
    """As whoever manages them would: ends the others first."""
    for other in others:
        other.kill()
    if machine.status() in ("paused", "postmigrate"):
        machine.qmp.command("cont")
    wait_until(machine.runs, SETTLE_S, f"{machine.name} runs the guest")


def one(lab, source, options, victim, moment):
    """The machine that has the guest afterwards, or None; how both ended, and after how long."""
    destination = lab.start(HOST_OTHER[source.host], incoming=True, paused=options.paused)
    begin(source, destination, options, lab.road)
    try:
        moment(source, destination)
    except QmpGone as error:
        raise Failure(f"a machine ended before its time: {error}") from error
    mend = strike(lab, victim, source, destination)
    struck = time.monotonic()
    ends = settle(source, destination)
    took = time.monotonic() - struck
    machine = who_goes_on(victim, options, ends, source, destination)
    if machine:
        hand_over(machine, [m for m in (source, destination) if m is not machine])
    mend()
    return machine, ends, took


def be_refused(lab, source, options, reason):
    """The migration ends before it has moved anything; the source runs, and is told why it was."""
    since = time.time()
    destination = lab.start(HOST_OTHER[source.host], incoming=True, paused=options.paused)
    begin(source, destination, options, lab.road)
    ends = settle(source, destination)
    if ends != ("failed", "gone") or not source.runs():
        raise Failure(f"source: {ends[0]}, {source.status()}; destination: {ends[1]}")
    report = lab.road.report("send", source.host, since)
    if reason not in report["reason"] or report["pages"]["moved"] != 0:
        raise Failure(f"refused for another reason: {report}")
    lab.road.check_processes()
    lab.guest.await_progress(source)
    lab.finish(source)


def sweep(lab, source, options, victim, every):
    """Strikes at each moment of another migration of the same guest; returns its last machine."""
    options = replace(options, pause=True, bandwidth=BANDWIDTH)
    slowest = 0
    for name, moment in MOMENTS[::every]:
        try:
            machine, ends, took = one(lab, source, options, victim, moment)
        except (Failure, QmpGone) as error:
            raise Failure(f"{victim} at '{name}': {error}") from error
        slowest = max(slowest, took)
        print(f"{victim} at '{name}': source {ends[0]}, destination {ends[1]} after {took:.2f} s, "
              f"{machine.name + ' goes on' if machine else 'the guest is lost'}", flush=True)
        if machine is None:
            machine = lab.start("a")
            lab.guest.await_ready(machine)
        else:
            lab.guest.await_progress(machine)
        source = machine
    print(f"{victim}: settled in {slowest:.2f} s at most")
    return source
