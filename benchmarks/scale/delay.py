"""How long an event takes to be counted, and a window to be delivered, at shares of the saturated rate.

One worker with the database, windows of two seconds, a grace of one. First events are sent as fast as they can be, by a
process beside the worker: what is counted in a second then is the saturated rate, of a machine that also sends. Then
10, 50 and 90 % of that are sent, and meanwhile, one after the other, *marked* events of agents of their own.

======== =====================================================================================================
delay    from .. to
======== =====================================================================================================
counted  a marked event is handed to its producer .. its agent's page shows it (asked every 5 ms)
document a marked event's window ends .. its document can be read (asked every 20 ms); the grace is a part of it
event    any window ends .. its aggregated event is there for ``read_committed``; the grace is a part of it
======== =====================================================================================================

Everything sent must be in the last revision of its window's aggregated event, and in its document.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

import orjson

from benchmarks.bench import REAL, Bench, Input, MeasuredWorker
from benchmarks.measuring import ContenderFailed, Watcher
from benchmarks.memory import documents
from benchmarks.scale.beside import beside
from benchmarks.scale.live import Traffic
from benchmarks.scale.marking import Marker
from benchmarks.scale.results import FAILURES, Part, Spread, failed
from benchmarks.workload import Totals
from feedback_app.embedded.database import EmbeddedDatabase
from feedback_app.provisioning import ensure_topics
from feedback_app.topics import Topics

SHARES: Final = (0.1, 0.5, 0.9)
WINDOW_MS: Final = 2_000
GRACE_MS: Final = 1_000

#: The first second of the saturated phase, in which the sender starts up, does not count.
_WARM_S: Final = 1.0
_READ_S: Final = 0.01
_NONE: Final = Spread()


@dataclass(frozen=True, slots=True)
class Delays:
    """What was seen at one rate, in events a second."""

    name: str
    rate: float = 0.0
    counted: Spread = _NONE
    document: Spread = _NONE
    event: Spread = _NONE
    failure: str = ""

    def cells(self) -> Mapping[str, str]:
        return {
            "events/s": f"{self.rate:,.0f}",
            "counted, median / 99% ms": str(self.counted),
            "document": str(self.document),
            "aggregated event": str(self.event),
            "samples": f"{self.counted.samples:,}, {self.document.samples:,}, {self.event.samples:,}",
        }


@dataclass(frozen=True, slots=True)
class Delay:
    """The part: *seconds* at each rate."""

    bench: Bench
    agents: int
    seconds: float
    say: Callable[[str], None]

    def part(self) -> Part:
        """Measure."""
        rows: list[Delays] = []
        try:
            with EmbeddedDatabase() as database:
                self._measure(database.url, rows)
        except FAILURES as error:
            self.say(f"delay: {error}")
            rows.append(Delays("all", failure=failed(error)))
        return Part(
            "delay", f"share of the saturated rate, windows of 2 s, a grace of 1 s, {self.agents:,} agents", rows
        )

    def _measure(self, url: str, rows: list[Delays]) -> None:
        ours = self.bench.settings(
            "delay", mongodb_url=url, batch_time_ms=WINDOW_MS, grace_ms=GRACE_MS, idle_ms=WINDOW_MS
        )
        topics = Topics.of(ours)
        ensure_topics(ours, topics.specs())
        totals: Counter[tuple[str, int]] = Counter()
        traffic = Traffic(self.bench.servers, topics.feedback, self.agents, WINDOW_MS)
        with (
            self.bench.worker(ours, app=REAL) as worker,
            Watcher(self.bench.servers, Input(ours, 0, {}).job()) as watcher,
        ):
            worker.wait_until_ready()
            saturated, sent = self._saturate(watcher, traffic)
            totals.update(sent)
            rows.append(Delays("saturated", saturated))
            for share in SHARES:
                self._drain(watcher, worker, totals)
                row, sent = self._at(
                    share, watcher, replace(traffic, rate=share * saturated), Marker(ours, f"{share:.0%}")
                )
                totals.update(sent)
                rows.append(row)
            self._drain(watcher, worker, totals)
            failure = _wrong(watcher.published, documents(ours), totals)
        rows[:] = [replace(row, failure=row.failure or failure) for row in rows]

    def _saturate(self, watcher: Watcher, traffic: Traffic) -> tuple[float, Totals]:
        """Send as fast as possible; return how many events were counted a second, and the totals of those sent."""
        with beside(traffic.send) as stop:
            _watch(watcher, _WARM_S)
            before, started = watcher.counted(), time.monotonic()
            _watch(watcher, self.seconds)
            rate = (watcher.counted() - before) / (time.monotonic() - started)
            return rate, stop()

    def _at(self, share: float, watcher: Watcher, traffic: Traffic, marker: Marker) -> tuple[Delays, Totals]:
        seen, begun = len(watcher.published), time.time()
        with beside(traffic.send) as stop, marker:
            _watch(watcher, self.seconds)
            counted = marker.stop()
            ended = time.time()
            sent = Counter(stop())
        _watch(watcher, (WINDOW_MS + GRACE_MS) / 1_000)
        rate = sum(sent.values()) / self.seconds
        sent.update(marker.sent)
        delays = []
        for value, at in zip(watcher.published[seen:], watcher.seen_at[seen:], strict=True):
            _, start, size, revision = orjson.loads(value)["eventId"].rsplit(":", 3)
            window_ended = (int(start) + int(size)) / 1_000
            if begun < int(start) / 1_000 and window_ended < ended and revision == "0":
                delays.append(at - window_ended)
        row = Delays(
            f"{share:.0%}", rate, Spread.of(counted), Spread.of(marker.documents()), Spread.of(delays), marker.failure
        )
        return row, sent

    def _drain(self, watcher: Watcher, worker: MeasuredWorker, totals: Totals) -> None:
        """Wait until all that was sent is counted, and its windows have closed by the wall clock."""
        deadline = time.monotonic() + self.bench.timeout
        missing = len(totals)
        while watcher.counted() < sum(totals.values()) or missing:
            quiet = not watcher.read(0.5)
            if quiet:
                missing = len(totals.keys() - _last(watcher.published).keys())
            if worker.ended or time.monotonic() > deadline:
                raise ContenderFailed(
                    f"{watcher.counted()} of {sum(totals.values())} events counted, {missing} windows not closed\n"
                    f"{worker.last_words()}"
                )
        watcher.read(0.5)


def _watch(watcher: Watcher, seconds: float) -> None:
    """Collect what is published, for *seconds*, noting the time of each hundredth of a second's share."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        watcher.read(_READ_S)


def _last(published: Iterable[bytes]) -> Totals:
    """Return the count of each window's last revision: one that was closed too early is amended."""
    last: dict[tuple[str, int], tuple[int, int]] = {}
    for value in published:
        event = orjson.loads(value)
        agent_id, start, _, revision = event["eventId"].rsplit(":", 3)
        window = (agent_id, int(start))
        last[window] = max(last.get(window, (-1, 0)), (int(revision), event["count"]))
    return {window: count for window, (_, count) in last.items()}


def _wrong(published: Iterable[bytes], stored: Totals, totals: Totals) -> str:
    """Say what is wrong with the aggregated events or the documents; empty when nothing is."""
    ids = Counter(orjson.loads(value)["eventId"] for value in published)
    last = _last(published)
    problems = [
        *(
            f"{name} differ"
            for name, counts in (("aggregated events", last), ("documents", stored))
            if counts != totals
        ),
        *(["an aggregated event was published twice"] if any(count > 1 for count in ids.values()) else []),
    ]
    return ", ".join(problems)
