"""What we rely on in Faust and aiokafka beyond their public interface: each test fails when one of these changes.

Where Faust's own behaviour is the reason for something of ours, that is shown too: when such a test fails after an
upgrade, ours may have become superfluous.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import logging.config
import time
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import aiokafka
import confluent_kafka
import faust
import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.errors import GroupAuthorizationFailedError, IllegalGenerationError, IllegalStateError
from aiokafka.structs import TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # exported without saying so
from faust.cli.faust import cli
from faust.tables.recovery import Recovery
from faust.tables.table import Table
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from mode.utils.locks import Event
from mode.utils.logging import setup_logging

from feedback_app.factory import create_app
from feedback_app.logs import JsonFormatter, json_logging, leave_out_banner
from feedback_app.settings import Settings
from feedback_app.sinks import Outcome
from feedback_app.topics import Topics
from feedback_app.transport.batches import BatchConsumer, BatchTransport, ConsumerThread
from feedback_app.transport.readers import Messages
from feedback_app.transport.signs import faust_signs
from feedback_app.transport.source import Batch
from tables.feedback_windows import FeedbackWindows
from tables.recovery import NothingToRecover, SelfRestoringTables

MakeSettings = Callable[..., Settings]

_DEADLINE_S = 10.0


class NoSink:
    """Is never written to."""

    async def upsert_windows(self, documents: Sequence[Mapping[str, Any]]) -> Outcome:
        raise AssertionError("nothing is written here")

    async def upsert_items(self, items: Sequence[Mapping[str, Any]]) -> int:
        raise AssertionError("nothing is written here")

    async def close(self) -> None:
        pass


@pytest.fixture
def ours(settings: MakeSettings) -> Settings:
    return settings("kafka://127.0.0.1:1", mongodb_url="mongodb://127.0.0.1:1", partitions=2)


@pytest.fixture
async def app(ours: Settings) -> Any:
    """An application that is connected to nothing. Most of what we rely on is not part of Faust's types."""
    app = create_app(ours, sink=NoSink())
    app.finalize()
    return app


class FakeThread:
    """Stands for the consumer's thread: no broker, and a note of what it is asked."""

    _thread = None
    _consumer = None

    def __init__(self, assigned: Collection[TP] = (), ends: Mapping[TP, int] | None = None) -> None:
        self.assigned = set(assigned)
        self.ends = dict(ends or {})
        self.fetched_for: list[set[TP]] = []
        self.sought_committed = 0

    async def getmany(self, active_partitions: set[TP], _timeout: float) -> dict[TP, list[Any]]:
        self.fetched_for.append(set(active_partitions))
        await asyncio.sleep(0)
        return {}

    def assignment(self) -> set[TP]:
        return self.assigned

    async def highwaters(self, *tps: TP) -> dict[TP, int]:
        return {tp: self.ends[tp] for tp in tps}

    async def earliest_offsets(self, *tps: TP) -> dict[TP, int]:
        return dict.fromkeys(tps, 0)

    async def seek_wait(self, offsets: Mapping[TP, int]) -> None:
        pass

    async def seek_to_committed(self) -> dict[TP, int]:
        self.sought_committed += 1
        return {}

    async def commit(self, offsets: Mapping[TP, int]) -> bool:
        raise AssertionError(f"Faust committed {offsets} by itself")


class FakeSource:
    """Stands for a partition's source: brings what it is given, one batch a fetch."""

    def __init__(self, *batches: Batch) -> None:
        self._batches = list(batches)
        self.closed = False

    def fetch(self, timeout: float) -> list[Batch]:
        if self._batches:
            return [self._batches.pop(0)]
        time.sleep(0.01)  # in its own thread, as the real one waits for the broker
        return []

    def at_the_end(self) -> bool:
        return not self._batches

    def close(self) -> None:
        self.closed = True


def batch_of(topic: str, start: int, end: int, partition: int = 0) -> Batch:
    return Batch(topic, partition, start, end, Messages())


def consumer_of(app: Any, thread: FakeThread) -> BatchConsumer:
    consumer = app.consumer
    assert isinstance(consumer, BatchConsumer)
    consumer._thread = thread  # type: ignore[assignment]  # a fake
    return consumer


def start(consumer: BatchConsumer, partition: int, offsets: Mapping[str, int], source: FakeSource) -> None:
    opened: Any = source
    consumer.start_partition(partition, offsets, lambda partition, offsets: opened)


@asynccontextmanager
async def draining(consumer: Any, let_go: asyncio.Event | None = None) -> AsyncIterator[asyncio.Queue[Any]]:
    """Run Faust's own loop that hands fetched messages on; yield what it hands on, none of which ends before
    *let_go*."""
    handed_on: asyncio.Queue[Any] = asyncio.Queue()

    async def hand_on(message: Any) -> None:
        await handed_on.put(message)
        if let_go is not None:
            await let_go.wait()

    consumer.callback = hand_on
    fetcher = faust.Service()
    task = asyncio.create_task(consumer._drain_messages(fetcher))
    try:
        yield handed_on
    finally:
        fetcher._stopped.set()
        consumer.suspend_flow.set()
        await asyncio.wait_for(task, _DEADLINE_S)


async def next_of(queue: asyncio.Queue[Any]) -> Any:
    return await asyncio.wait_for(queue.get(), _DEADLINE_S)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(_DEADLINE_S):
        while not condition():  # noqa: ASYNC110  # of Faust's and aiokafka's, without an event to wait for
            await asyncio.sleep(0.01)


# -- the log -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to_file", [True, False])
def test_json_takes_the_place_of_every_formatter_and_of_nothing_else(
    monkeypatch: pytest.MonkeyPatch, to_file: bool
) -> None:
    configured: list[dict[str, Any]] = []
    monkeypatch.setattr(logging.root, "handlers", [])  # mode clears them
    monkeypatch.setattr(logging.config, "dictConfig", configured.append)
    for logging_config in (None, json_logging()):
        setup_logging(loglevel="warn", logfile="worker.log" if to_file else None, logging_config=logging_config)
    stock, ours = configured
    formatters = ours["formatters"]
    assert (
        {handler["formatter"] for handler in ours["handlers"].values()}
        <= formatters.keys()
        == stock["formatters"].keys()
    )
    assert all(formatter["()"] is JsonFormatter for formatter in formatters.values())
    for part in ("version", "disable_existing_loggers", "handlers", "root"):
        assert ours[part] == stock[part]


def test_a_worker_without_a_banner_is_still_the_command_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    stock = cli.commands["worker"]
    monkeypatch.setitem(cli.commands, "worker", stock)
    leave_out_banner()
    ours = cli.commands["worker"]
    assert ours is not stock
    assert (ours.name, ours.help) == (stock.name, stock.help)
    assert [option.name for option in ours.params] == [option.name for option in stock.params]


# -- versions and settings -----------------------------------------------------------------------------------------


def test_these_are_the_versions_that_were_read() -> None:
    assert version("faust-streaming") == "0.15.3"
    assert version("aiokafka").startswith("0.14.")


_THEIRS = {
    "BROKER_URL": "kafka://elsewhere:1",
    "WEB_PORT": "1234",
    "WEB_BIND": "0.0.0.0",
    "APP_DATADIR": "/elsewhere",
    "TABLE_STANDBY_REPLICAS": "3",
    "PROCESSING_GUARANTEE": "exactly_once",
    "STREAM_WAIT_EMPTY": "true",
}


def test_fausts_own_variables_do_not_beat_our_settings(ours: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in _THEIRS.items():
        monkeypatch.setenv(name, value)
    conf = create_app(ours, sink=NoSink()).conf
    assert [str(url) for url in conf.broker] == [ours.broker_url]
    assert (conf.web_port, conf.web_bind) == (ours.web_port, ours.web_host)
    assert conf.datadir == ours.data_dir / ours.app_id
    assert conf.table_standby_replicas == 0
    assert not conf.stream_wait_empty
    assert str(conf.processing_guarantee) == str(faust.types.enums.ProcessingGuarantee.AT_LEAST_ONCE)


def test_without_an_environment_of_our_own_they_would(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in _THEIRS.items():
        monkeypatch.setenv(name, value)
    conf = faust.App("stock", broker="kafka://ours:1", web_port=1, table_standby_replicas=0).conf
    assert [str(url) for url in conf.broker] == ["kafka://elsewhere:1"]
    assert (conf.web_port, conf.table_standby_replicas) == (1234, 3)


def test_brokers_are_handed_to_faust_one_by_one(settings: MakeSettings) -> None:
    ours = settings("kafka://b1:1,b2", mongodb_url="mongodb://127.0.0.1:1")
    urls = create_app(ours, sink=NoSink()).conf.broker
    assert driver.server_list(list(urls), 9) == ["b1:1", "b2:9092"]


async def test_faust_takes_our_transport_consumer_and_tables(app: Any) -> None:
    assert isinstance(app.transport, BatchTransport)
    assert isinstance(app.consumer, BatchConsumer)
    assert isinstance(app.consumer._thread, ConsumerThread)
    assert isinstance(app.tables, SelfRestoringTables)
    assert isinstance(app.tables.recovery, NothingToRecover)
    assert app.tables.recovery is app.tables.recovery


# -- from a batch to a message -------------------------------------------------------------------------------------


async def test_a_batch_reaches_the_agents_as_one_message(app: Any) -> None:
    tp = TP("feedback", 0)
    consumer = consumer_of(app, FakeThread([tp]))
    batch = batch_of("feedback", 5, 905)
    start(consumer, 0, {"feedback": 5}, FakeSource(batch))
    async with draining(consumer) as handed_on:
        message = await next_of(handed_on)
    assert message.value is batch
    assert (message.tp, message.offset) == (tp, 904)
    consumer.stop_partitions()


async def test_a_member_tells_that_it_is_alive_while_it_reads(app: Any) -> None:
    """``_getmany`` asks the consumer's thread for each partition that is resumed, and for no other."""
    tps = {TP("feedback", 0), TP("feedback", 1)}
    thread = FakeThread(tps)
    consumer = consumer_of(app, thread)
    start(consumer, 1, {"feedback": 0}, FakeSource())
    async with draining(consumer):
        await until(lambda: len(thread.fetched_for) >= 2)
    assert set(map(frozenset, thread.fetched_for)) == {frozenset({TP("feedback", 1)})}
    consumer.stop_partitions()


async def test_a_member_without_partitions_tells_that_it_is_alive_too(app: Any) -> None:
    """Else aiokafka has it leave the group for good, and it is no spare when another worker dies."""
    thread = FakeThread()
    async with draining(consumer_of(app, thread)):
        await until(lambda: len(thread.fetched_for) >= 1)


# offsets handed on      0..9     then back to 5:    5..7
async def test_a_partition_that_is_sent_back_is_handed_on_again(app: Any) -> None:
    """Faust's loop drops what lies before the offset that it has noted; it finds none noted."""
    consumer = consumer_of(app, FakeThread([TP("feedback", 0)]))
    first, again = batch_of("feedback", 0, 10), batch_of("feedback", 5, 8)
    start(consumer, 0, {"feedback": 0}, FakeSource(first))
    async with draining(consumer) as handed_on:
        assert (await next_of(handed_on)).value is first
        await until(lambda: consumer._read_offset.get(TP("feedback", 0)) == 9)
        start(consumer, 0, {"feedback": 5}, FakeSource(again))
        assert (await next_of(handed_on)).value is again
    consumer.stop_partitions()


# handing on 0..9    |-----------------------| Faust notes 9
# back to 5                    |                    5..7
async def test_a_partition_that_is_sent_back_while_a_batch_is_handed_on_is_handed_on_again(app: Any) -> None:
    consumer = consumer_of(app, FakeThread([TP("feedback", 0)]))
    first, again = batch_of("feedback", 0, 10), batch_of("feedback", 5, 8)
    start(consumer, 0, {"feedback": 0}, FakeSource(first))
    let_go = asyncio.Event()
    async with draining(consumer, let_go) as handed_on:
        assert (await next_of(handed_on)).value is first
        start(consumer, 0, {"feedback": 5}, FakeSource(again))
        await until(lambda: not consumer._fetched.empty())
        let_go.set()
        assert (await next_of(handed_on)).value is again
    consumer.stop_partitions()


async def test_nothing_is_handed_on_while_the_flow_is_stopped(app: Any) -> None:
    consumer = consumer_of(app, FakeThread([TP("feedback", 0)]))
    consumer.stop_flow()
    batch = batch_of("feedback", 0, 10)
    start(consumer, 0, {"feedback": 0}, FakeSource(batch))
    async with draining(consumer) as handed_on:
        await until(lambda: not consumer._fetched.empty())
        await asyncio.sleep(0)
        assert handed_on.empty()
        consumer.resume_flow()
        assert (await next_of(handed_on)).value is batch
    consumer.stop_partitions()


async def test_what_arrives_while_the_flow_is_being_stopped_is_dropped(app: Any) -> None:
    """It was read for an assignment that ends: the partition is read from its record's offset again."""
    thread = FakeThread([TP("feedback", 0)])
    consumer = consumer_of(app, thread)
    start(consumer, 0, {"feedback": 0}, FakeSource())
    async with draining(consumer) as handed_on:
        await until(lambda: bool(thread.fetched_for))
        consumer.stop_flow()
        consumer._fetched.put_nowait(batch_of("feedback", 0, 10))
        await until(consumer._fetched.empty)
        consumer.resume_flow()
        asked = len(thread.fetched_for)
        await until(lambda: len(thread.fetched_for) > asked)
        assert handed_on.empty()
    consumer.stop_partitions()


async def test_faust_commits_no_offsets_of_the_source_topics(app: Any, ours: Settings) -> None:
    """The offsets are the transactions': acknowledging a message must not have Faust commit it."""
    tp = TP(Topics.of(ours).feedback, 0)
    consumer = consumer_of(app, FakeThread([tp]))
    topics: Any = app.topics
    for agent in app.agents.values():
        topics.add(agent.channel)
    topics.add(app.topic("stock"))
    assert {tp.topic, "stock"} <= set(await topics._update_indices())
    assert topics._acking_topics == {"stock"}
    message = consumer._message(tp, batch_of(tp.topic, 0, 10))
    consumer.track_message(message)
    message.incref()
    assert not message.ack(consumer)
    assert message.acked
    assert consumer._acked == {}
    assert not await consumer.commit()


# -- which partitions are read -------------------------------------------------------------------------------------


# rebalance    assigned --- all paused --- tables told --- recovery: resume all, seek to committed --- flow
# ours                                                     only what was started, and nowhere
async def test_an_assigned_partition_is_read_only_once_it_is_started(
    app: Any, ours: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    topics = Topics.of(ours)
    sources = {TP(topic, partition) for topic in topics.sources for partition in (0, 1)}
    changelog = {TP(topics.changelog, 0), TP(topics.changelog, 1)}
    thread = FakeThread(sources | changelog, dict.fromkeys(changelog, 3))
    consumer = consumer_of(app, thread)
    active_when_told: list[set[TP]] = []

    async def told(*args: Any) -> None:
        active_when_told.append(consumer._get_active_partitions().copy())
        start(consumer, 1, dict.fromkeys(topics.sources, 0), FakeSource())

    monkeypatch.setattr(app.windows, "on_rebalance", told)
    _assign(app, monkeypatch, changelog)
    async with _recovering(app):
        await consumer.on_partitions_assigned(thread.assigned, 1)
        await asyncio.wait_for(app.tables.recovery.completed.wait(), _DEADLINE_S)
    assert active_when_told == [set()]
    assert consumer._get_active_partitions() == {tp for tp in sources if tp.partition == 1}
    assert thread.sought_committed == 0, "each partition stands where its own record says"
    assert consumer.flow_active
    consumer.stop_partitions()


async def test_stock_faust_reads_all_of_them_from_the_committed_offsets(
    app: Any, ours: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ``resume_partitions`` and ``perform_seek`` of ours keep it from, at the same places."""
    topics = Topics.of(ours)
    sources = {TP(topics.feedback, 0), TP(topics.feedback, 1)}
    changelog = {TP(topics.changelog, 0), TP(topics.changelog, 1)}
    thread = FakeThread(sources | changelog, dict.fromkeys(changelog, 3))
    consumer = consumer_of(app, thread)
    monkeypatch.setattr(BatchConsumer, "resume_partitions", driver.Consumer.resume_partitions)
    monkeypatch.setattr(BatchConsumer, "perform_seek", driver.Consumer.perform_seek)
    monkeypatch.setattr(app.windows, "on_rebalance", _nothing)
    _assign(app, monkeypatch, changelog)
    async with _recovering(app):
        await consumer.on_partitions_assigned(thread.assigned, 1)
        await asyncio.wait_for(app.tables.recovery.completed.wait(), _DEADLINE_S)
    assert consumer._get_active_partitions() == sources
    assert thread.sought_committed == 1


async def test_what_was_stopped_is_paused_by_the_next_rebalance(app: Any) -> None:
    tps = {TP("feedback", 0)}
    consumer = consumer_of(app, FakeThread(tps))
    source = FakeSource()
    start(consumer, 0, {"feedback": 0}, source)
    assert consumer._get_active_partitions() == tps
    consumer.stop_partitions()
    consumer.pause_partitions(tps)
    consumer.resume_partitions(tps)
    assert consumer._get_active_partitions() == set()
    await until(lambda: source.closed)


async def test_the_table_gives_up_its_partitions_once_the_flow_is_stopped(
    app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a revocation Faust stops the flow, and only then tells us: no batch can follow."""
    tps = {TP("feedback", 0)}
    consumer = consumer_of(app, FakeThread(tps))
    seen: list[tuple[bool, set[TP]]] = []

    async def release() -> None:
        seen.append((consumer.flow_active, consumer._get_active_partitions().copy()))

    monkeypatch.setattr(app.windows, "_release_all", release)
    monkeypatch.setattr(app, "_producer_flush", _nothing)
    consumer._set_active_tps(tps)
    await consumer.on_partitions_revoked(tps)
    assert seen == [(False, set())]


# -- recovery ------------------------------------------------------------------------------------------------------


async def test_the_table_manager_tells_tables_and_then_recovery(
    app: Any, ours: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    consumer_of(app, FakeThread())
    told: list[tuple[str, Any]] = []

    async def table(*args: Any) -> None:
        told.append(("table", args))

    async def recovery(*args: Any) -> None:
        told.append(("recovery", args))

    monkeypatch.setattr(app.tables, "_update_channels", _nothing)
    monkeypatch.setattr(app.windows, "on_rebalance", table)
    monkeypatch.setattr(app.tables.recovery, "on_rebalance", recovery)
    one, other = {TP("feedback", 0)}, {TP("feedback", 1)}
    await app.tables.on_rebalance(one, other, one, 7)
    assert told == [("table", (one, other, one, 7)), ("recovery", (one, other, one, 7))]


def test_the_table_is_told_with_these_arguments() -> None:
    assert list(inspect.signature(FeedbackWindows.on_rebalance).parameters) == list(
        inspect.signature(Table.on_rebalance).parameters
    )


# changelog      0   1   C        C: a control record, which no reader is handed; the end is 3
# stock             read  ^ waits for offset 2
async def test_stock_recovery_would_wait_for_a_control_record(
    app: Any, ours: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    tp = TP(Topics.of(ours).changelog, 0)
    thread = FakeThread([tp], {tp: 3})
    consumer = consumer_of(app, thread)
    stock = Recovery(app, app.tables)
    monkeypatch.setattr(app.windows, "persisted_offset", lambda tp: 1)
    stock.add_active(app.windows, tp)
    await stock._build_highwaters(consumer, stock.active_tps, stock.active_highwaters, "active")
    await stock._build_offsets(consumer, stock.active_tps, stock.active_offsets, "active")
    assert stock.need_recovery()
    assert stock.active_remaining_total() == 1


@pytest.mark.parametrize("end", [0, 1, 3, 10**12])
@pytest.mark.parametrize("persisted", [None, 0, 1])
async def test_ours_finds_nothing_to_recover(
    app: Any, ours: Settings, monkeypatch: pytest.MonkeyPatch, end: int, persisted: int | None
) -> None:
    tps = {TP(Topics.of(ours).changelog, partition) for partition in (0, 1)}
    consumer = consumer_of(app, FakeThread(tps, dict.fromkeys(tps, end)))
    resumed: list[set[TP]] = []
    monkeypatch.setattr(consumer, "resume_partitions", lambda tps: resumed.append(set(tps)))
    monkeypatch.setattr(app.windows, "persisted_offset", lambda tp: persisted)
    _assign(app, monkeypatch, tps)
    app.consumer_generation_id = 1
    recovery = app.tables.recovery
    async with _recovering(app):
        for _ in range(2):  # the second rebalance finds what the first one left
            recovery.completed.clear()
            await recovery.on_rebalance(tps, set(), tps, 1)
            await asyncio.wait_for(recovery.completed.wait(), _DEADLINE_S)
    assert not recovery.need_recovery()
    assert not recovery.in_recovery
    assert not any(tps & each for each in resumed), "the changelog is never read through Faust"


async def _nothing(*args: Any, **kwargs: Any) -> None:
    pass


def _assign(app: Any, monkeypatch: pytest.MonkeyPatch, changelog: set[TP]) -> None:
    """Let Faust's assignor say that these changelog partitions are ours."""
    monkeypatch.setattr(app.assignor, "assigned_actives", lambda: changelog)
    monkeypatch.setattr(app.assignor, "assigned_standbys", set)
    monkeypatch.setattr(app.tables, "_update_channels", _nothing)
    monkeypatch.setattr(app.agents, "on_rebalance", _nothing)
    monkeypatch.setattr(type(app._fetcher), "maybe_start", _nothing)
    app.consumer_generation_id = 1


@asynccontextmanager
async def _recovering(app: Any) -> AsyncIterator[None]:
    """Run the task of Faust's recovery service."""
    recovery: Any = app.tables.recovery
    task = asyncio.create_task(type(recovery)._restart_recovery(recovery))
    try:
        yield
    finally:
        recovery._stopped.set()
        await asyncio.wait_for(task, _DEADLINE_S)


# -- aiokafka ------------------------------------------------------------------------------------------------------


async def test_a_member_is_paused_before_anybody_is_told_of_its_partitions(
    app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Faust's rebalance listener calls the thread, which pauses what aiokafka would fetch for nothing."""
    thread: Any = app.consumer._thread
    order: list[Any] = []

    class Coordinator:
        generation = 7

    class Group:
        _coordinator = Coordinator()

        def assignment(self) -> set[TopicPartition]:
            return {TopicPartition("feedback", 0), TopicPartition("changelog", 0)}

        def pause(self, *tps: TopicPartition) -> None:
            order.append(("pause", set(tps)))

    async def told(self: object, assigned: set[TP], generation: int) -> None:
        order.append(("told", assigned, generation))

    monkeypatch.setattr(thread, "_consumer", Group())
    monkeypatch.setattr(driver.AIOKafkaConsumerThread, "on_partitions_assigned", told)
    assigned = [TopicPartition("feedback", 0), TopicPartition("changelog", 0)]
    await driver.ConsumerRebalanceListener(thread).on_partitions_assigned(assigned)
    tps = {TP("feedback", 0), TP("changelog", 0)}
    assert order == [("pause", tps), ("told", tps, 7)]
    assert app.consumer_generation_id == 7


async def test_fetching_nothing_tells_aiokafka_that_the_member_is_alive(
    app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``Consumer._getmany`` goes by ``getmany`` and ``_fetch_records`` of the thread into a fetch context."""
    thread: Any = app.consumer._thread
    subscriptions = SubscriptionState()
    asked: list[tuple[Any, Any]] = []

    class Fetcher:
        _closed = False
        _subscriptions = subscriptions

        async def fetched_records(self, partitions: Any, **limits: Any) -> dict[Any, Any]:
            asked.append((partitions, limits))
            return {}

    class Group:
        _closed = False
        _fetcher = Fetcher()
        _max_poll_records = 5

    async def call_here(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return await call(*args, **kwargs)

    monkeypatch.setattr(thread, "_consumer", Group())
    monkeypatch.setattr(thread, "call_thread", call_here)
    subscriptions._last_fetch_ended -= 1_000
    assert subscriptions.fetcher_idle_time >= 1_000
    tps = {TP("feedback", 0)}
    assert await driver.Consumer._getmany(app.consumer, tps, 0) == {}
    assert subscriptions.fetcher_idle_time < 1_000
    assert asked == [(tps, {"timeout": 0, "max_records": 5})]


@pytest.mark.parametrize(
    ("error", "told"),
    [(None, True), (IllegalGenerationError, False), (IllegalStateError, False), (TimeoutError, False)],
)
async def test_the_group_is_told_the_offsets_and_may_refuse_them(
    app: Any, monkeypatch: pytest.MonkeyPatch, error: type[Exception] | None, told: bool
) -> None:
    thread: Any = app.consumer._thread
    committed: list[dict[TopicPartition, int]] = []

    class Group:
        async def commit(self, offsets: dict[TopicPartition, int]) -> None:
            committed.append(offsets)
            if error is not None:
                raise error

    async def call_here(call: Callable[..., Any], *args: Any) -> Any:
        return await call(*args)

    monkeypatch.setattr(thread, "_consumer", Group())
    monkeypatch.setattr(thread, "call_thread", call_here)
    assert await app.consumer.tell_group({TP("feedback", 0): 17}) == told
    assert committed == [{TopicPartition("feedback", 0): 17}]


@pytest.fixture
def topic(embedded_broker: str) -> str:
    """A topic of two partitions with three records in each."""
    return _topic_with_records(embedded_broker)


def _topic_with_records(broker_url: str) -> str:
    servers: dict[str, Any] = {"bootstrap.servers": broker_url.removeprefix("kafka://")}
    name = f"seams-{uuid.uuid4().hex[:12]}"
    admin = AdminClient(servers)
    for made in admin.create_topics([NewTopic(name, 2, 1)], operation_timeout=10).values():
        made.result(10)
    producer = confluent_kafka.Producer(servers)
    for number in range(6):
        producer.produce(name, b"%d" % number, partition=number % 2)
    assert producer.flush(10) == 0
    return name


async def test_aiokafka_fetches_nothing_for_a_paused_partition(embedded_broker: str, topic: str) -> None:
    paused, other = TopicPartition(topic, 0), TopicPartition(topic, 1)
    consumer = aiokafka.AIOKafkaConsumer(
        bootstrap_servers=embedded_broker.removeprefix("kafka://"), auto_offset_reset="earliest"
    )
    await consumer.start()
    try:
        consumer.assign([paused, other])
        consumer.pause(paused)
        found: list[Any] = []
        async with asyncio.timeout(_DEADLINE_S):
            while len(found) < 3:
                for tp, records in (await consumer._fetcher.fetched_records({paused, other}, timeout=0.2)).items():
                    assert tp == other
                    found += records
        assert paused not in consumer._fetcher._records
        assert await consumer.position(paused) == 0
    finally:
        await consumer.stop()


async def test_aiokafka_leaves_the_group_of_a_member_that_fetches_nothing(kafka: str) -> None:
    """It joins again only once it fetches."""
    topic = _topic_with_records(kafka)
    consumer = aiokafka.AIOKafkaConsumer(
        topic,
        bootstrap_servers=kafka.removeprefix("kafka://"),
        group_id=topic,
        session_timeout_ms=6_000,
        heartbeat_interval_ms=100,
        max_poll_interval_ms=500,
        retry_backoff_ms=10,
    )
    await consumer.start()
    coordinator: Any = consumer._coordinator
    tries = 0
    ensure_active_group = coordinator.ensure_active_group

    async def counting(*args: Any) -> Any:
        nonlocal tries
        tries += 1
        return await ensure_active_group(*args)

    try:
        await until(lambda: len(consumer.assignment()) == 2)
        coordinator.ensure_active_group = counting
        await until(lambda: not coordinator.member_id and tries > 10)
        fetching = asyncio.create_task(consumer.getone(TopicPartition("no", 0)))
        await until(lambda: bool(coordinator.member_id))
        fetching.cancel()
    finally:
        await consumer.stop()


# -- what ends without a word --------------------------------------------------------------------------------------


async def test_a_fetcher_that_is_cancelled_ends_without_a_word(app: Any) -> None:
    """And so it is a sign of ours: its task is not among the service's futures any more."""
    consumer_of(app, FakeThread())
    fetcher = app._fetcher
    await fetcher.start()
    (task,) = fetcher._futures
    assert task.__wrapped__.__name__ == "_fetcher"
    assert "Faust's fetcher has ended" not in list(faust_signs(app))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait_for(asyncio.wait([task]), _DEADLINE_S)
    assert not fetcher.crashed
    assert not app.crashed
    assert "Faust's fetcher has ended" in list(faust_signs(app))


async def test_the_tasks_that_must_not_end_have_the_names_that_are_looked_for(app: Any) -> None:
    names = {
        task.fun.__name__
        for service in (app._fetcher, app.tables.recovery, app.topics)
        for task in service._get_tasks()
    }
    assert {"_fetcher", "_restart_recovery", "_subscriber"} <= names


async def test_an_agent_whose_actor_has_ended_is_a_sign(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = app.agents["agents.feedback"]
    monkeypatch.setattr(agent, "_started", _set())
    assert "agent agents.feedback has ended" in list(faust_signs(app)), "it has no actor"
    actor = agent(stream=app.stream(app.channel()))
    actor.actor_task = asyncio.create_task(asyncio.sleep(0))
    agent._actors.add(actor)
    assert "agent agents.feedback has ended" not in list(faust_signs(app))
    await actor.actor_task
    assert "agent agents.feedback has ended" in list(faust_signs(app))


async def test_aiokafka_keeps_an_error_for_a_fetch_that_faust_does_not_make(
    app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The coordination stands still until somebody takes the error; ``_fetch_records`` of Faust's thread never asks."""
    assert "check_errors" in inspect.getsource(aiokafka.AIOKafkaConsumer.getmany)
    assert "check_errors" not in inspect.getsource(driver.AIOKafkaConsumerThread)
    client: Any = AIOKafkaClient(bootstrap_servers="127.0.0.1:1")
    subscriptions = SubscriptionState()
    subscriptions.register_fetch_waiters(set())
    coordinator = GroupCoordinator(client, subscriptions, group_id="group")
    try:
        waiting = asyncio.ensure_future(coordinator._push_error_to_user(GroupAuthorizationFailedError("group")))
        await asyncio.sleep(0)
        group = SimpleNamespace(_coordinator=coordinator)
        monkeypatch.setattr(app.consumer._thread, "_consumer", group)
        (sign,) = [sign for sign in faust_signs(app) if "member" in sign]
        assert sign == "the group does not take this member: GroupAuthorizationFailedError('group')"
        coordinator._coordination_task.cancel()
        await asyncio.wait([coordinator._coordination_task])
        assert "aiokafka's coordination task has ended" in list(faust_signs(app))
        waiting.cancel()
    finally:
        await coordinator.close()
        await client.close()


async def test_recovery_asks_the_broker_nothing(app: Any, ours: Settings) -> None:
    """It would wait for one that is away."""
    tps = {TP(Topics.of(ours).changelog, 0)}
    consumer = consumer_of(app, FakeThread(tps, {}))
    recovery = app.tables.recovery
    offsets: dict[TP, int] = {}
    await recovery._build_highwaters(consumer, tps, recovery.active_highwaters, "active")
    await recovery._build_offsets(consumer, tps, offsets, "active")
    assert offsets == dict(recovery.active_highwaters) == dict.fromkeys(tps, -1)


# offered      batch ------------------- arrived
# overdue            |------------------|
async def test_a_batch_under_way_through_faust_is_a_step_until_it_has_arrived(app: Any) -> None:
    tp = TP("feedback", 0)
    consumer = consumer_of(app, FakeThread([tp]))
    batch = batch_of("feedback", 0, 10)
    start(consumer, 0, {"feedback": 0}, FakeSource(batch))
    await until(lambda: not consumer._fetched.empty())
    app.liveness.advance(25)
    assert app.liveness.reasons() == ["a batch of feedback[0] does not arrive, for 25 s"]
    consumer.arrived(batch)
    assert app.liveness.reasons() == []
    consumer.stop_partitions()


async def test_a_batch_that_a_rebalance_drops_is_not_waited_for(app: Any) -> None:
    consumer = consumer_of(app, FakeThread([TP("feedback", 0)]))
    start(consumer, 0, {"feedback": 0}, FakeSource(batch_of("feedback", 0, 10)))
    await until(lambda: not consumer._fetched.empty())
    consumer.stop_partitions()
    app.liveness.advance(25)
    assert app.liveness.reasons() == []


# rebalance    assigned ---- Faust resumes      assigned ---- the next one
# overdue              |----|                           |----|
@pytest.mark.parametrize("then", ["on_rebalance_end", "on_rebalance_start"])
async def test_between_an_assignment_and_its_end_faust_is_waited_for(app: Any, then: str) -> None:
    app.on_rebalance_start()
    app.liveness.advance(25)
    assert app.liveness.reasons() == [], "the broker may be away"
    app.on_rebalance_return()
    app.liveness.advance(25)
    assert app.liveness.reasons() == ["Faust does not resume after a rebalance, for 25 s"]
    getattr(app, then)()
    assert app.liveness.reasons() == []


def _set() -> Any:
    event = Event()
    event.set()
    return event
