"""Items stored, against a bare driver that writes the same documents into the same database.

The worker is up before its input comes, and the clock runs from the sending to the last committed offset: with so few
batches, a clock that starts in the middle would give away what was under way then. The bare driver gets the documents
that the worker has stored, in bulk writes of the size that the worker's were on average (records a transaction). It
upserts them, as a program does that may have stored some of them before; and it inserts them, which is faster and what
the worker does too where nothing is stored yet: one bulk write after the other, and as many at once as there are
partitions, of which the faster counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import pymongo
from pymongo import InsertOne, ReplaceOne, WriteConcern

from benchmarks.bench import REAL, Bench, Input, Point
from benchmarks.measuring import Watcher
from benchmarks.scale.results import FAILURES, Bar, Part, failed, ratio
from benchmarks.scale.topics import contents
from benchmarks.workload import Workload
from feedback_app.embedded.database import EmbeddedDatabase
from feedback_app.provisioning import ITEMS_COLLECTION, ensure_topics
from feedback_app.settings import Settings
from feedback_app.topics import Topics

LEAST_OF_BARE: Final = 0.9

_Document = dict[str, Any]
_Documents = Sequence[_Document]
_Write = Callable[[_Document], InsertOne[_Document] | ReplaceOne[_Document]]


@dataclass(frozen=True, slots=True)
class Items:
    """The part. *events* are stored in each of *rounds*; the medians count."""

    bench: Bench
    events: int
    agents: int
    rounds: int
    say: Callable[[str], None]

    def part(self, off: Point) -> Part:
        """Measure; *off* is the worker without items."""
        rows = [off]
        to_upserts = to_inserts = None
        try:
            with EmbeddedDatabase() as database:
                rounds = [self._round(number, database.url) for number in range(1, self.rounds + 1)]
        except FAILURES as error:
            self.say(f"items: {error}")
            rows.append(Point("stored", failure=failed(error)))
        else:
            ours, upserts, *inserts = (_median(points) for points in zip(*rounds, strict=True))
            rows += [ours, upserts, *inserts]
            to_upserts = ratio(ours.rate, upserts.rate)
            to_inserts = ratio(ours.rate, max(point.rate for point in inserts))
        what = "items a second, ours to the bare driver's"
        bars = [
            Bar("items_rate", f"{what} upserts", to_upserts, LEAST_OF_BARE, at_most=False),
            Bar("items_rate_to_inserts", f"{what} inserts", to_inserts, LEAST_OF_BARE, at_most=False),
        ]
        return Part("items", "items", rows, bars)

    def _round(self, number: int, url: str) -> tuple[Point, ...]:
        # Nothing closes: the window is the only one, and there are no ticks.
        workload = Workload.just_over(self.events, self.agents, 1)
        ours = self.bench.settings(f"items-{number}", mongodb_url=url, store_items=True)
        stored = self._store(ours, workload)
        with pymongo.MongoClient[_Document](url, retryWrites=False) as client:
            documents = list(client[ours.mongodb_database][ITEMS_COLLECTION].find())
            if len(documents) != self.events:
                stored = Point(stored.name, failure=f"{len(documents):,} of {self.events:,} items are stored")
            changelog = contents(self.bench.servers, Topics.of(ours).changelog, ours.partitions)
            bulk = max(1, round(self.events / changelog.transactions))
            self.say(f"items: {changelog.transactions} transactions, so bulk writes of {bulk:,} items")
            bare = []
            for what, write, at_once in (
                ("upserts", _upsert, ours.partitions),
                ("inserts", InsertOne, 1),
                ("inserts", InsertOne, ours.partitions),
            ):
                # Nothing is dropped: dropping takes SecantusDB as long as storing.
                target = client.get_database(f"{ours.mongodb_database}-{what}-{at_once}")
                seconds = _write_all(target, documents, write, bulk, at_once)
                bare.append(Point(f"bare driver, {what}, {at_once} at once", len(documents), seconds=seconds))
        return (stored, *bare)

    def _store(self, ours: Settings, workload: Workload) -> Point:
        given = Input(ours, workload.events, {})
        ensure_topics(ours, Topics.of(ours).specs())
        with self.bench.worker(ours, app=REAL) as worker, Watcher(self.bench.servers, given.job()) as watcher:
            worker.wait_until_ready()
            started, before = time.monotonic(), worker.usage().cpu_seconds
            workload.send(ours.bootstrap_servers, Topics.of(ours).feedback, ticks=False)
            watcher.time(worker, windows_too=False, timeout=self.bench.timeout)
            seconds, used = time.monotonic() - started, worker.usage()
            cpu_us = 1_000_000 * (used.cpu_seconds - before) / given.records
            return Point("stored", given.records, 0, seconds, cpu_us, used.peak_mb)


def _upsert(document: _Document) -> ReplaceOne[_Document]:
    return ReplaceOne({"_id": document["_id"]}, document, upsert=True)


def _write_all(database: Any, documents: _Documents, write: _Write, bulk: int, at_once: int) -> float:
    """Write *documents*, those of a partition in their order; return the seconds that it took."""
    collection = database.get_collection(ITEMS_COLLECTION, write_concern=WriteConcern("majority", j=True))
    by_partition: dict[int, list[_Document]] = {}
    for document in documents:
        by_partition.setdefault(document["origin"]["partition"], []).append(document)

    def store(share: _Documents) -> None:
        for first in range(0, len(share), bulk):
            collection.bulk_write([write(document) for document in share[first : first + bulk]], ordered=False)

    started = time.monotonic()
    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(store, by_partition.values()))
    return time.monotonic() - started


def _median(points: Sequence[Point]) -> Point:
    """Return the points' medians; a failure of any is its failure."""
    failures = [point.failure for point in points if point.failure]
    return Point(
        points[-1].name,
        points[0].records,
        0,
        median(point.seconds for point in points),
        median(point.cpu_us for point in points),
        max(point.peak_mb for point in points),
        failures[0] if failures else "",
    )
