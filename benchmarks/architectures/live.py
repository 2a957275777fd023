"""Events that happen now, at a rate: how late they are written, and what a killed instance loses or counts twice.

Batch time and window are five seconds; the delay is that of a batch's oldest event, from its timestamp to its document.
With *kill*, the first instance gets SIGKILL in the middle of the traffic and is started again at once, as it was.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from benchmarks.architectures.contenders import Architecture
from benchmarks.architectures.figures import EVERY_S, spread
from benchmarks.architectures.fleet import Fleet
from benchmarks.architectures.judging import Loss, documents, judge
from benchmarks.architectures.place import Place
from benchmarks.bench import Input
from benchmarks.measuring import ContenderFailed, Watcher
from benchmarks.scale.beside import beside
from benchmarks.scale.live import Traffic
from feedback_app.provisioning import ensure_topics
from feedback_app.settings import Settings
from feedback_app.topics import Topics

BATCH_MS: Final = 5_000
_SETTINGS: Final = {"batch_time_ms": BATCH_MS, "grace_ms": 1_000, "idle_ms": 2_000}
_POLL_S: Final = 0.1
#: Events of this application are to be counted within this time; of the others, to be written within a batch time more
#: than half of it. What is older when the traffic ends is behind.
_BEHIND_S: Final = 2.0
#: When, of the traffic, somebody is killed: some batches have been written by then, and the offsets are in between two
#: commits.
_KILLED_AT: Final = 2 / 3


@dataclass(frozen=True, slots=True)
class Live:
    """What one architecture did at one rate.

    Attributes:
        behind: events that should have been counted, or written, when the traffic ended, and were not.
        delay: of batches, in ms: median, 99 %, highest.
        loss: what a kill has cost; None where nobody was killed, or it did not keep up.
    """

    name: str
    what: str
    rate: float
    agents: int
    events: int = 0
    behind: int = 0
    delay: Mapping[str, float] | None = None
    peak_mb: float = 0.0
    batches: int = 0
    timers: int = 0
    killed: bool = False
    loss: Loss | None = None
    failure: str = ""

    @property
    def keeps_up(self) -> bool:
        return not self.behind and (not self.delay or self.delay["median"] <= 2 * BATCH_MS)

    def cells(self) -> Mapping[str, str]:
        if self.killed:
            loss = self.loss
            return {
                "events/s": f"{self.rate:,.0f}",
                "events": f"{self.events:,}",
                "lost": f"{loss.lost:,}" if loss else "",
                "counted twice": f"{loss.doubled:,}" if loss else "",
                "windows wrong": f"{loss.windows:,}" if loss else "",
            }
        delay = self.delay or {}
        return {
            "events/s": f"{self.rate:,.0f}",
            "keeps up": "yes" if self.keeps_up else f"no, {self.behind:,} behind" if self.behind else "no",
            "delay, median / 99 % s": f"{delay['median'] / 1e3:.1f} / {delay['p99'] / 1e3:.1f}" if delay else "",
            "peak MB": f"{self.peak_mb:.0f}",
            "batches": f"{self.batches:,}",
            "timers": f"{self.timers:,}",
        }


def live(
    place: Place, architecture: Architecture, rate: float, agents: int, seconds: float, *, kill: bool = False
) -> Live:
    """Measure *architecture* with *seconds* of traffic.

    Raises:
        ContenderFailed: it ended by itself, or was not done in time.
    """
    settings = place.settings(architecture, **_SETTINGS)
    topics = Topics.of(settings)
    ensure_topics(settings, topics.specs())
    traffic = Traffic(place.servers, topics.feedback, agents, settings.batch_time_ms, rate)
    job = Input(settings, 0, {}).job(members=architecture.members)
    with Watcher(place.servers, job) as watcher, place.fleet(architecture, settings) as fleet:
        fleet.wait_until_joined()
        with beside(traffic.send) as stop:
            _wait(fleet, _KILLED_AT * seconds)
            if kill:
                fleet.kill_and_restart_first()
            _wait(fleet, (1 - _KILLED_AT) * seconds)
            totals = stop()
        events = sum(totals.values())
        row = Live(architecture.name, architecture.what, rate, agents, events, killed=kill)
        if not kill:
            done = watcher.counted() if architecture.ours else fleet.total("flushed")
            allowed = rate * (_BEHIND_S if architecture.ours else 1.5 * BATCH_MS / 1_000)
            row = replace(row, behind=max(0, round(events - done - allowed)))
            if row.behind:
                batches, timers = _held(fleet, settings)
                return replace(row, peak_mb=fleet.peak_mb(), batches=batches, timers=timers)
        if not architecture.ours:
            _settle(fleet, watcher, events, place.timeout)
        loss = judge(settings, totals, ours=architecture.ours, wait_s=place.timeout, until_closed=True)
        batches, timers = _held(fleet, settings)
        row = replace(row, loss=loss, peak_mb=fleet.peak_mb(), batches=batches, timers=timers)
        if not architecture.ours:
            fleet.stop_in_order(place.timeout)  # it tells its delays at its end
        return replace(row, delay=_delays(fleet, settings), failure="" if kill or loss.none else str(loss))


def _wait(fleet: Fleet, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while (left := deadline - time.monotonic()) > 0:
        fleet.check()
        time.sleep(min(left, _POLL_S))


def _settle(fleet: Fleet, watcher: Watcher, events: int, timeout: float) -> None:
    """Wait until the group has committed all *events*, and no batch is left anywhere, twice in a row."""
    deadline = time.monotonic() + timeout
    seen = 0
    while seen < 2:
        fleet.check()
        seen = seen + 1 if watcher.counted() >= events and fleet.nothing_left() else 0
        if time.monotonic() > deadline:
            raise ContenderFailed(f"{watcher.counted():,} of {events:,} events committed\n{fleet.last_words()}")
        time.sleep(2 * EVERY_S)  # what is told of the members is not older than that


def _held(fleet: Fleet, settings: Settings) -> tuple[int, int]:
    """Return how many batches and timers there were at most."""
    if not fleet.architecture.ours:
        return round(fleet.total("peak_batches")), round(fleet.total("peak_timers"))
    counts: dict[object, int] = {}
    for document in documents(settings):
        counts[document["windowStart"]] = counts.get(document["windowStart"], 0) + 1
    return max(counts.values(), default=0), fleet.architecture.members


def _delays(fleet: Fleet, settings: Settings) -> Mapping[str, float]:
    if fleet.architecture.ours:
        written = documents(settings)
        return spread([1e3 * (each["closedAt"] - each["firstTimestamp"]).total_seconds() for each in written])
    told = [each["ages_ms"] for each in fleet.told() if each.get("ages_ms")]
    # Of several instances, that of the slowest.
    return {name: max(each[name] for each in told) for name in ("median", "p99", "highest")} if told else {}
