"""Where a scenario takes place: a broker, a database, workers, and traffic."""

from __future__ import annotations

import random
import uuid
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from confluent_kafka.admin import AdminClient
from pymongo.database import Database

from feedback_app.admin import Admin
from feedback_app.core.state import OPEN, PARTITION_RECORD_KEY
from feedback_app.embedded.database import EmbeddedDatabase
from feedback_app.embedded.process import free_port
from feedback_app.errors import FeedbackError
from feedback_app.provisioning import ensure_topics, open_database
from feedback_app.settings import Settings, load_settings
from feedback_app.topics import Topics, TopicSpec
from feedback_app.verification import Verdict, verify
from feedback_app.verification.reading import TopicReader
from tests.chaos.fleet import ChaosWorker, Fleet, ScenarioFailed
from tests.chaos.judging import Outcome, judge
from tests.chaos.stream import Mix, Stream
from tests.services.kafka import ApacheKafka

_SETTINGS: Final[dict[str, Any]] = {
    "partitions": 4,
    "batch_time_ms": 2_000,
    "grace_ms": 1_000,
    "idle_ms": 2_000,
    # Longer than any scenario keeps one partition behind another: see ``stream``.
    "retention_ms": 180_000,
    "store_items": False,
    "batch_size": 100,
}
_PACE: Final = 800.0
_AGENTS: Final = 25
#: How long everything may take to be read and closed once the traffic has ended.
_SETTLES_S: Final = 120.0


class Arena:
    """One scenario's own world; nothing in it is shared but, mostly, the broker."""

    def __init__(self, directory: Path, seed: int, kafka: ApacheKafka | str, broken: str) -> None:
        self.random = random.Random(seed)
        self.fleet = Fleet()
        self._directory = directory
        self._seed = seed
        self._broken = broken
        self._kafka = kafka
        self._database: EmbeddedDatabase | None = None
        self._stream: Stream | None = None
        self._unique = f"chaos-{uuid.uuid4().hex[:8]}"
        self._by_window = True
        self._overrides: dict[str, Any] = {}
        self._stack = ExitStack()
        self._stack.callback(self.fleet.close)

    # -- parts -----------------------------------------------------------------------------------------------------

    @property
    def kafka(self) -> ApacheKafka:
        """The scenario's own broker."""
        assert isinstance(self._kafka, ApacheKafka), "the broker is shared: the scenario must ask for its own"
        return self._kafka

    @property
    def database(self) -> EmbeddedDatabase:
        """The scenario's own database; it takes fail points."""
        if self._database is None:
            self._database = self._stack.enter_context(
                EmbeddedDatabase(self._directory / "database", enable_test_commands=True)
            )
        return self._database

    @property
    def stream(self) -> Stream:
        """The traffic, once it has begun."""
        assert self._stream is not None
        return self._stream

    @property
    def sent(self) -> int:
        """How many records were sent so far."""
        return self._stream.sent if self._stream is not None else 0

    def configure(self, **overrides: Any) -> None:
        """Change settings for workers that are made from now on, and for the judge."""
        if "batch_time_ms" in overrides and self.fleet.workers:
            self._by_window = False
        self._overrides |= overrides

    def settings(self) -> Settings:
        """Return the settings for one more worker."""
        url = self._kafka if isinstance(self._kafka, str) else self._kafka.url
        own = {
            "broker_url": url,
            "mongodb_url": self.database.url,
            "app_id": self._unique,
            "topic_prefix": f"{self._unique}-",
            "mongodb_database": self._unique,
            "data_dir": self._directory / f"data-{len(self.fleet.workers)}",
            "web_port": free_port(),
            "_env_file": None,
        }
        return load_settings(**(own | _SETTINGS | self._overrides))

    @property
    def topics(self) -> Topics:
        return Topics.of(self.settings())

    def worker(self, settings: Settings | None = None) -> ChaosWorker:
        """Return one more worker, not started."""
        settings = settings or self.settings()
        ensure_topics(settings, Topics.of(settings).specs())
        number = len(self.fleet.workers)
        worker = ChaosWorker(settings, self._directory / f"worker-{number}.log", self._broken)
        self.fleet.workers.append(worker)
        return worker

    def begin_traffic(self, *, pace: float = _PACE, agents: int = _AGENTS, mix: Mix | None = None) -> Stream:
        """Let traffic flow until the scenario has ended."""
        self._stream = Stream(self.settings(), self._seed, pace=pace, agents=agents, mix=mix or Mix())
        self._stream.begin()
        return self._stream

    def at_work(self, sent: int, *, pace: float = _PACE, mix: Mix | None = None) -> ChaosWorker:
        """Return a worker that has been started, with traffic flowing of which so many records are *sent*."""
        worker = self.worker()
        worker.begin()
        self.begin_traffic(pace=pace, mix=mix)
        self.fleet.until_ready(worker)
        self.until_sent(sent)
        return worker

    def windows_under_way(self) -> list[tuple[str, int, int]]:
        """Return (agentId, start, size) of the newest windows that events were sent for: they are not closed yet."""
        size = self.settings().batch_time_ms
        sent = dict(self.stream.expected.counted)
        newest = max(at for _, at in sent)
        start = newest - newest % size
        return [(agent, start, size) for agent in sorted({agent for agent, at in sent if at >= start})]

    def compact_eagerly(self) -> None:
        """Make the changelog so that it is compacted all the time, and keeps tombstones for moments."""
        config = {
            "cleanup.policy": "compact",
            "delete.retention.ms": "100",
            "segment.ms": "1000",
            "min.cleanable.dirty.ratio": "0.01",
        }
        settings = self.settings()
        Admin(settings).create([TopicSpec(self.topics.changelog, settings.partitions, config)])

    def changelog_density(self) -> float:
        """Return how many records there are in the changelog for each of its offsets."""
        with TopicReader(self.settings()) as reader:
            there = sum(len(messages) for _, messages in reader.read(self.topics.changelog, {}, {}))
            return there / max(1, sum(range_.end for range_ in reader.ranges(self.topics.changelog).values()))

    def changelog_windows(self) -> int:
        """Return how many windows still stand in the changelog, be it by their tombstones."""
        return sum(key != PARTITION_RECORD_KEY for _, key in self._changelog())

    def open_windows(self, partitions: Collection[int]) -> int:
        """Return how many windows are open on *partitions*, by what the changelog says."""
        return sum(
            partition in partitions and key.startswith(OPEN) and value is not None
            for (partition, key), value in self._changelog().items()
        )

    def _changelog(self) -> dict[tuple[int, bytes], bytes | None]:
        """Return the newest value, or tombstone, that the changelog holds of each partition's keys."""
        stored: dict[tuple[int, bytes], bytes | None] = {}
        with TopicReader(self.settings()) as reader:
            for partition, messages in reader.read(self.topics.changelog, {}, {}):
                stored.update(((partition, message.key() or b""), message.value()) for message in messages)
        return stored

    def delete_topic(self, name: str) -> None:
        """Delete a topic, and wait until it is gone."""
        admin = AdminClient({"bootstrap.servers": self.settings().bootstrap_servers})
        for deleted in admin.delete_topics([name]).values():
            deleted.result()
        self.fleet.until(lambda: name not in admin.list_topics(timeout=10).topics, f"{name} is gone", tended=False)

    def until_sent(self, more: int) -> None:
        """Wait until so many *more* records are sent."""
        target = self.stream.sent + more
        self.fleet.until(lambda: self.stream.sent >= target, f"{target} records are sent")

    @contextmanager
    def documents(self) -> Iterator[Database[dict[str, Any]]]:
        """The database, as its operator sees it."""
        with open_database(self.settings()) as database:
            yield database

    @contextmanager
    def failing(self, command: str, mode: Any = "alwaysOn", **how: Any) -> Iterator[None]:
        """Let a command of the database fail, or be slow, for our workers only."""
        with self.documents() as database:
            admin = database.client.admin
            data = {"failCommands": [command], "appName": self._unique, **how}
            admin.command({"configureFailPoint": "failCommand", "mode": mode, "data": data})
            try:
                yield
            finally:
                admin.command({"configureFailPoint": "failCommand", "mode": "off"})

    # -- the end ---------------------------------------------------------------------------------------------------

    def outcome(self) -> Outcome:
        """Let everything be read and closed, and compare it with what was sent.

        Raises:
            FeedbackError: it could not be compared.
        """
        self.stream.end()
        verdict = self.settled()
        return judge(self.settings(), self.stream.expected, verdict, by_window=self._by_window)

    def settled(self) -> Verdict:
        """Wait, without traffic, until everything is closed."""
        return verify(self.settings(), _SETTLES_S, until_closed=True, report=lambda _: self.fleet.tend())

    def all_closed(self) -> None:
        """Wait, without traffic, until everything is closed, and nothing is wrong so far."""
        verdict = self.settled()
        if verdict.open or not verdict.verified:
            raise ScenarioFailed(f"not everything is closed as it should be: {verdict}")

    def close(self) -> None:
        """End everything."""
        if self._stream is not None:
            with suppress(FeedbackError):  # only after a failure that says more
                self._stream.end()
        self._stack.close()
