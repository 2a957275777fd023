"""The sink against a real server that speaks MongoDB's wire protocol."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from pymongo import MongoClient
from pymongo.collection import Collection
from pymongo.database import Database

from feedback_app.core.aggregate import Aggregate
from feedback_app.core.clock import ManualClock
from feedback_app.core.documents import Document, date, item_document, window_document
from feedback_app.core.events import Event, Origin
from feedback_app.core.windows import Window
from feedback_app.embedded.database import EmbeddedDatabase
from feedback_app.embedded.process import HOST, free_port
from feedback_app.errors import SettingsError
from feedback_app.retry import retrying
from feedback_app.settings import Settings
from feedback_app.sinks import Outcome, SinkUnavailable
from feedback_app.sinks.failures import Written
from feedback_app.sinks.mongodb import MongoSink

NOW = 1_700_000_000_000
SIZE = 300_000
#: The driver asks the server how it is at growing intervals, unless told: after "not primary", that would be a wait.
POLLING = "/?serverMonitoringMode=poll&heartbeatFrequencyMS=500"

MakeSettings = Callable[..., Settings]


def window(agent_id: str, count: int, *, rating: str = "positive", tags: Sequence[str] = ()) -> Document:
    """Return the document of a window of *count* events."""
    aggregate = Aggregate()
    fields = {"feedbackId": "f", "agentId": agent_id, "userId": "u", "rating": rating, "timestamp": NOW}
    event = msgspec.convert(fields | {"tags": list(tags)}, Event)
    for number in range(count):
        aggregate.add(event, NOW + number, number)
    return window_document(Window(agent_id, NOW - NOW % SIZE, SIZE), aggregate)


def item(feedback_id: str, ms: int, origin: Origin, **fields: Any) -> Document:
    """Return the document of an item."""
    event = {"feedbackId": feedback_id, "agentId": "a", "userId": "u", "rating": "neutral", "timestamp": ms}
    return item_document(msgspec.convert(event | fields, Event), origin)


def stored(collection: Collection[Document]) -> dict[str, Document]:
    return {document["_id"]: document for document in collection.find()}


@pytest.fixture
def config(settings: MakeSettings, database: EmbeddedDatabase) -> Settings:
    return settings("kafka://localhost:9092", mongodb_url=database.url + POLLING)


@pytest.fixture
def db(config: Settings, database: EmbeddedDatabase) -> Iterator[Database[Document]]:
    """What a test looks at the database with: not the sink's own connection."""
    with MongoClient[Document](database.url, tz_aware=True) as client:
        yield client[config.mongodb_database]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
async def sink(config: Settings, clock: ManualClock) -> AsyncIterator[MongoSink]:
    sink = MongoSink(config, clock=clock)
    await sink.prepare()
    yield sink
    await sink.close()


@pytest.fixture
def failing(db: Database[Document], config: Settings) -> Callable[..., Any]:
    """Return ``with failing(command, **how):``, within which the server fails that command of the sink's."""

    @contextmanager
    def fail(*commands: str, times: int | None = None, **how: Any) -> Iterator[None]:
        mode = "alwaysOn" if times is None else {"times": times}
        data = {"failCommands": list(commands), "appName": config.app_id, **how}
        db.client.admin.command({"configureFailPoint": "failCommand", "mode": mode, "data": data})
        try:
            yield
        finally:
            db.client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})

    return fail


@pytest.fixture
def meanwhile(sink: MongoSink, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Return ``meanwhile(*actions)``: the first happens right before the sink's next command to the server, the second
    before the one after it, and so on. It is how somebody else's write gets between two of the sink's.
    """

    def plan(*actions: Callable[[], object] | None) -> None:
        remaining = iter(actions)

        def after_an_action(command: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
            async def issue(*args: Any) -> Any:
                action = next(remaining, None)
                if action is not None:
                    action()
                return await command(*args)

            return issue

        for name in ("_write", "_counts"):
            monkeypatch.setattr(sink, name, after_an_action(getattr(sink, name)))

    return plan


# --- windows ---------------------------------------------------------------------------------------------------------


async def test_windows_are_stored_as_they_are(sink: MongoSink, db: Database[Document]) -> None:
    documents = [window(f"agent-{number}", 2 + number, tags=("slow", "rude")) for number in range(50)]
    assert await sink.upsert_windows(documents) == Outcome()
    assert stored(db["feedback_windows"]) == {
        document["_id"]: {**document, "closedAt": date(NOW)} for document in documents
    }
    assert "closedAt" not in documents[0]


async def test_nothing_to_store_is_no_error(sink: MongoSink) -> None:
    assert await sink.upsert_windows([]) == Outcome()
    assert await sink.upsert_items([]) == 0


async def test_a_repeat_changes_nothing_but_closed_at(
    sink: MongoSink, db: Database[Document], clock: ManualClock
) -> None:
    documents = [window("a", 3), window("b", 4)]
    await sink.upsert_windows(documents)
    first = stored(db["feedback_windows"])
    clock.advance(1_000)
    assert await sink.upsert_windows(documents) == Outcome()
    assert stored(db["feedback_windows"]) == {
        document_id: {**document, "closedAt": date(NOW + 1_000)} for document_id, document in first.items()
    }


async def test_a_higher_count_replaces_the_whole_document(sink: MongoSink, db: Database[Document]) -> None:
    await sink.upsert_windows([window("a", 3, tags=("slow",))])
    db["feedback_windows"].update_one({}, {"$set": {"ofAnEarlierVersion": 1}})
    newer = window("a", 4, rating="negative")
    assert await sink.upsert_windows([newer]) == Outcome()
    assert stored(db["feedback_windows"]) == {newer["_id"]: {**newer, "closedAt": date(NOW)}}


async def test_a_lower_count_is_left_out_and_reported(
    sink: MongoSink, db: Database[Document], clock: ManualClock
) -> None:
    ahead = window("a", 5)
    await sink.upsert_windows([ahead, window("b", 5)])
    before = stored(db["feedback_windows"])[ahead["_id"]]
    clock.advance(1_000)
    behind, equal, higher, new = window("a", 4), window("b", 5), window("c", 1), window("d", 1)
    assert await sink.upsert_windows([behind, equal, higher, new]) == Outcome(ahead={behind["_id"]: 5})
    after = stored(db["feedback_windows"])
    assert after[ahead["_id"]] == before
    assert len(after) == 4
    assert after[equal["_id"]]["closedAt"] == date(NOW + 1_000)


async def test_tags_stay_values(sink: MongoSink, db: Database[Document]) -> None:
    tags = ["$set", "a.b", "$where", "_id", "$literal"]
    document = window("$agent.with|odd$ignore", 1, tags=tags)
    for _ in range(2):  # as an insert, and as a replacement
        await sink.upsert_windows([document])
        (found,) = db["feedback_windows"].find()
        assert found["agentId"] == "$agent.with|odd$ignore"
        assert found["tags"] == [{"tag": tag, "count": 1} for tag in sorted(tags)]


async def test_many_sinks_at_once_leave_the_highest_count(
    config: Settings, sink: MongoSink, db: Database[Document]
) -> None:
    others = [MongoSink(config) for _ in range(3)]
    sinks = [sink, *others]
    agents = [f"agent-{number}" for number in range(40)]
    for _ in range(3):
        db["feedback_windows"].delete_many({})
        batches = [[window(agent, 1 + number) for agent in agents] for number in range(len(sinks))]
        outcomes = await asyncio.gather(
            *(each.upsert_windows(batch) for each, batch in zip(sinks, batches, strict=True))
        )
        assert {found["agentId"]: found["count"] for found in db["feedback_windows"].find()} == dict.fromkeys(
            agents, len(sinks)
        )
        assert not any(outcome.refused for outcome in outcomes)
        assert outcomes[-1] == Outcome()
        for number, outcome in enumerate(outcomes):
            assert all(count > 1 + number for count in outcome.ahead.values())
    for each in others:
        await each.close()


async def test_the_same_windows_from_two_sinks_at_once_are_stored_for_both(config: Settings, sink: MongoSink) -> None:
    other = MongoSink(config)
    for number in range(3):
        documents = [window(f"agent-{number}-{agent}", 2) for agent in range(100)]
        for outcome in await asyncio.gather(sink.upsert_windows(documents), other.upsert_windows(documents)):
            assert outcome == Outcome()
    await other.close()


async def test_a_document_deleted_in_between_is_stored_all_the_same(
    sink: MongoSink, db: Database[Document], meanwhile: Callable[..., None]
) -> None:
    await sink.upsert_windows([window("a", 1)])
    meanwhile(None, lambda: db["feedback_windows"].delete_many({"agentId": "a"}))
    assert await sink.upsert_windows([window("a", 2), window("b", 2)]) == Outcome()
    assert [found["count"] for found in db["feedback_windows"].find()] == [2, 2]


async def test_a_document_that_gets_ahead_in_between_is_reported(
    sink: MongoSink, db: Database[Document], meanwhile: Callable[..., None]
) -> None:
    ours = window("a", 2)
    await sink.upsert_windows([window("a", 1)])
    meanwhile(None, lambda: db["feedback_windows"].update_one({}, {"$set": {"count": 3}}))
    assert await sink.upsert_windows([ours]) == Outcome(ahead={ours["_id"]: 3})


async def test_a_document_that_keeps_changing_under_us_is_no_outcome(
    sink: MongoSink, db: Database[Document], meanwhile: Callable[..., None]
) -> None:
    ours = window("a", 2)

    def get_ahead() -> None:
        db["feedback_windows"].replace_one({"_id": ours["_id"]}, {"count": 9}, upsert=True)

    def vanish() -> None:
        db["feedback_windows"].delete_many({})

    def fall_behind() -> None:
        db["feedback_windows"].update_one({}, {"$set": {"count": 1}})

    # The commands of two attempts: insert, update, find.
    for attempt in [(get_ahead, vanish, None), (get_ahead, None, fall_behind)]:
        meanwhile(*attempt, *attempt)
        with pytest.raises(SinkUnavailable, match="1 window documents are deleted, or set back"):
            await sink.upsert_windows([ours])
    meanwhile(get_ahead, None, fall_behind)
    assert await sink.upsert_windows([ours]) == Outcome()
    assert [found["count"] for found in db["feedback_windows"].find()] == [2]


async def test_a_document_without_a_count_is_not_overwritten(sink: MongoSink, db: Database[Document]) -> None:
    ours = window("a", 2)
    db["feedback_windows"].insert_one({"_id": ours["_id"], "note": "somebody else's"})
    assert await sink.upsert_windows([ours]) == Outcome(
        refused={ours["_id"]: "a document that has no count is in its place"}
    )
    assert stored(db["feedback_windows"])[ours["_id"]]["note"] == "somebody else's"


BAD_VALUES = {
    "the server finds it too large": ("x" * (17 << 20), "too large"),
    "the driver finds it too large": ("x" * (50 << 20), "DocumentTooLarge"),
    "an integer of 65 bits": (1 << 64, "8-byte ints"),
    "half a surrogate": ("\ud800", "surrogates not allowed"),
    "no BSON type": ({"a set"}, "cannot encode object"),
}


@pytest.mark.parametrize(("value", "reason"), BAD_VALUES.values(), ids=BAD_VALUES.keys())
async def test_one_bad_document_holds_up_no_other(
    sink: MongoSink, db: Database[Document], value: Any, reason: str
) -> None:
    documents = [window(f"agent-{number}", 1) for number in range(20)]
    bad = documents[7]
    for _ in range(2):  # the second time, the others are there already
        outcome = await sink.upsert_windows([{**each, "bad": value} if each is bad else each for each in documents])
        assert set(outcome.refused) == {bad["_id"]}
        assert reason in outcome.refused[bad["_id"]]
        assert len(outcome.refused[bad["_id"]]) < 300
        assert not outcome.ahead
        assert set(stored(db["feedback_windows"])) == {each["_id"] for each in documents if each is not bad}
    # It may be there, too, from before it went bad.
    await sink.upsert_windows([bad])
    outcome = await sink.upsert_windows([{**bad, "bad": value}, window("another", 1)])
    assert set(outcome.refused) == {bad["_id"]}
    assert len(stored(db["feedback_windows"])) == 21


async def test_what_a_rule_of_the_collection_forbids_is_refused(sink: MongoSink, db: Database[Document]) -> None:
    db.command({"collMod": "feedback_windows", "validator": {"count": {"$lt": 10}}})
    db["feedback_windows"].create_index([("agentId", 1)], unique=True)
    await sink.upsert_windows([window("a", 1), window("b", 1)])
    too_many, twice = window("a", 10), {**window("b", 2), "_id": "another"}
    outcome = await sink.upsert_windows([too_many, twice, window("c", 10), window("d", 1)])
    assert set(outcome.refused) == {too_many["_id"], "another", window("c", 1)["_id"]}
    assert "failed validation" in outcome.refused[too_many["_id"]]
    assert "agentId_1" in outcome.refused["another"]
    assert {found["agentId"]: found["count"] for found in db["feedback_windows"].find()} == {"a": 1, "b": 1, "d": 1}


async def test_a_unique_index_of_an_operator_is_not_mistaken_for_a_refusal(
    sink: MongoSink, db: Database[Document]
) -> None:
    """A window that is there is duplicate in both indexes, and the server names one."""
    db["feedback_windows"].create_index([("agentId", 1)], unique=True)
    await sink.upsert_windows([window("a", 1), window("b", 5)])
    outcome = await sink.upsert_windows([window("a", 2), window("b", 4), window("c", 1)])
    assert (outcome.refused, outcome.ahead) == ({}, {window("b", 4)["_id"]: 5})
    assert {found["agentId"]: found["count"] for found in db["feedback_windows"].find()} == {"a": 2, "b": 5, "c": 1}


async def test_a_unique_index_of_an_operator_lets_newer_items_in(sink: MongoSink, db: Database[Document]) -> None:
    db["feedback"].create_index([("userId", 1)], unique=True)
    origin = Origin("feedback", 0, 7)
    await sink.upsert_items([item("f-1", 1_000, origin, userId="u-1")])
    refused = await sink.upsert_items(
        [item("f-1", 2_000, origin, userId="u-1", score=5), item("f-2", 1_000, origin, userId="u-1")]
    )
    assert refused == 1
    assert {found["_id"]: found["score"] for found in db["feedback"].find()} == {"f-1": 5}


# --- indexes and connection ------------------------------------------------------------------------------------------


async def test_indexes_are_created_once(sink: MongoSink, db: Database[Document]) -> None:
    await sink.prepare()
    keys = [index["key"] for index in db["feedback_windows"].index_information().values()]
    assert sorted(keys) == sorted([[("_id", 1)], [("agentId", 1), ("windowStart", 1)], [("windowEnd", 1)]])


@pytest.mark.parametrize("code", [85, 86], ids=["IndexOptionsConflict", "IndexKeySpecsConflict"])
async def test_an_index_of_an_operator_is_left_as_it_is(
    sink: MongoSink,
    db: Database[Document],
    failing: Callable[..., Any],
    caplog: pytest.LogCaptureFixture,
    code: int,
) -> None:
    db["feedback_windows"].drop_indexes()
    with failing("createIndexes", errorCode=code):
        await sink.prepare()
    assert len([message for message in caplog.messages if "is left as it is" in message]) == 2
    with failing("createIndexes", errorCode=13), pytest.raises(SinkUnavailable):
        await sink.prepare()


def expiries(db: Database[Document], collection: str) -> dict[str, int | None]:
    """Return when documents expire, by the name of the index, less those that every collection has."""
    found = db[collection].index_information()
    return {
        name: index.get("expireAfterSeconds")
        for name, index in found.items()
        if name not in {"_id_", "agentId_1_windowStart_1"}
    }


def expiring(config: Settings, windows: int | None, items: int | None) -> MongoSink:
    return MongoSink(config.model_copy(update={"windows_expire_after_s": windows, "items_expire_after_s": items}))


@pytest.mark.parametrize("refused", [False, True], ids=["", "no collMod"])
async def test_expiry_follows_the_settings(
    config: Settings, db: Database[Document], failing: Callable[..., Any], refused: bool
) -> None:
    async def prepare(windows: int | None, items: int | None) -> tuple[dict[str, int | None], dict[str, int | None]]:
        sink = expiring(config, windows, items)
        try:
            await sink.prepare()
            await sink.prepare()
        finally:
            await sink.close()
        return expiries(db, "feedback_windows"), expiries(db, "feedback")

    never: tuple[dict[str, int | None], dict[str, int | None]] = ({"windowEnd_1": None}, {})
    assert await prepare(None, None) == never
    assert await prepare(5_000, 60) == ({"feedback_app_expiry": 5_000}, {"feedback_app_expiry": 60})
    with failing("collMod", errorCode=59) if refused else nullcontext():
        assert await prepare(7_000, 30) == ({"feedback_app_expiry": 7_000}, {"feedback_app_expiry": 30})
    assert await prepare(7_000, None) == ({"feedback_app_expiry": 7_000}, {})
    assert await prepare(None, None) == never


async def test_an_index_of_an_operator_is_neither_dropped_nor_changed(
    config: Settings, db: Database[Document], caplog: pytest.LogCaptureFixture
) -> None:
    db["feedback"].create_index([("timestamp", 1)], name="mine")
    db["feedback_windows"].create_index([("windowEnd", 1)], name="mine", expireAfterSeconds=9_000)
    for windows, items in ((None, None), (5_000, 60)):
        sink = expiring(config, windows, items)
        await sink.prepare()
        await sink.close()
        assert (expiries(db, "feedback_windows"), expiries(db, "feedback")) == ({"mine": 9_000}, {"mine": None})
    assert [message for message in caplog.messages if "do not expire as configured" in message] == [
        f"{collection}: documents do not expire as configured: the index mine on {field} is somebody else's and in the "
        "way: drop it"
        for collection, field in (("feedback_windows", "windowEnd"), ("feedback", "timestamp"))
    ]


async def test_workers_may_prepare_at_once(config: Settings, db: Database[Document]) -> None:
    db["feedback_windows"].create_index([("windowEnd", 1)])
    sinks = [expiring(config, 5_000, 60) for _ in range(4)]
    await asyncio.gather(*(sink.prepare() for sink in sinks))
    for sink in sinks:
        await sink.close()
    assert (expiries(db, "feedback_windows"), expiries(db, "feedback")) == (
        {"feedback_app_expiry": 5_000},
        {"feedback_app_expiry": 60},
    )


async def test_a_window_that_has_expired_is_amended_all_the_same(sink: MongoSink, db: Database[Document]) -> None:
    """The state has all of it: the document comes back whole."""
    await sink.upsert_windows([window("agent", 2)])
    db["feedback_windows"].delete_many({})  # as the database does it
    amended = {**window("agent", 3), "revision": 1}
    assert await sink.upsert_windows([amended]) == Outcome({}, {})
    (document,) = stored(db["feedback_windows"]).values()
    assert (document["count"], document["revision"]) == (3, 1)


async def test_the_url_can_not_weaken_the_write_concern(settings: MakeSettings, database: EmbeddedDatabase) -> None:
    sink = MongoSink(settings("kafka://localhost:9092", mongodb_url=f"{database.url}/?w=1&journal=false"))
    for collection in (sink._windows, sink._items):
        concern = collection.write_concern.document
        assert (concern["w"], concern["j"]) == ("majority", True)
    await sink.close()


@pytest.mark.parametrize("url", ["mongodb://user:s3cret%zz@[::1", "mongodb://u:s3cret@h:99999", "mongodb://u@s3cret@h"])
def test_a_url_that_is_none_is_a_wrong_setting(settings: MakeSettings, url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        MongoSink(settings("kafka://localhost:9092", mongodb_url=url))
    assert "FEEDBACK_MONGODB_URL" in str(caught.value)
    assert "s3cret" not in str(caught.value)


async def test_a_server_that_is_down_is_told_quickly(settings: MakeSettings) -> None:
    url = f"mongodb://user:s3cret@{HOST}:{free_port()}"
    sink = MongoSink(settings("kafka://localhost:9092", mongodb_url=url), server_selection_timeout_s=0.3)
    calls: list[Callable[[], Awaitable[Any]]] = [
        lambda: sink.upsert_windows([window("a", 1)]),
        lambda: sink.upsert_items([item("f", 1, ORIGIN)]),
        sink.prepare,
    ]
    for call in calls:
        started = time.monotonic()
        with pytest.raises(SinkUnavailable, match="Connection refused") as caught:
            await call()
        assert time.monotonic() - started < 2
        assert "s3cret" not in str(caught.value)
        assert len(str(caught.value)) < 300
    await sink.close()


async def test_after_close_nothing_is_written(config: Settings) -> None:
    sink = MongoSink(config)
    await sink.close()
    await sink.close()
    with pytest.raises(SinkUnavailable):
        await sink.upsert_windows([window("a", 1)])


async def test_what_was_stored_survives_a_kill_and_the_sink_goes_on(settings: MakeSettings, tmp_path: Path) -> None:
    with EmbeddedDatabase(tmp_path / "database") as server:
        sink = MongoSink(
            settings("kafka://localhost:9092", mongodb_url=server.url + POLLING), server_selection_timeout_s=1
        )
        await sink.upsert_windows([window("a", 2)])
        server.kill()
        with pytest.raises(SinkUnavailable):
            await sink.upsert_windows([window("b", 1)])
        server.start()
        behind = window("a", 1)
        assert await retrying(lambda: sink.upsert_windows([behind, window("b", 1)])) == Outcome(
            ahead={behind["_id"]: 2}
        )
        await sink.close()


async def test_a_server_that_hangs_is_told_within_the_deadline(settings: MakeSettings, tmp_path: Path) -> None:
    with EmbeddedDatabase(tmp_path / "database") as server:
        config = settings("kafka://localhost:9092", mongodb_url=server.url + POLLING)
        sink = MongoSink(config, server_selection_timeout_s=1, command_timeout_s=0.5)
        patient = MongoSink(config)
        await patient.upsert_windows([window("a", 1)])
        os.kill(server.pid, signal.SIGSTOP)
        started = time.monotonic()
        with pytest.raises(SinkUnavailable):
            await sink.upsert_windows([window("a", 1)])
        assert time.monotonic() - started < 5
        started = time.monotonic()
        await patient.close()
        assert time.monotonic() - started < 4  # it waits 2 s for an answer to its taking leave
        os.kill(server.pid, signal.SIGCONT)
        assert await retrying(lambda: sink.upsert_windows([window("a", 1)])) == Outcome()
        await sink.close()


async def test_a_command_that_hangs_is_given_up(
    config: Settings, db: Database[Document], failing: Callable[..., Any]
) -> None:
    sink = MongoSink(config, command_timeout_s=0.3)
    with (
        failing("insert", blockConnection=True, blockTimeMS=2_000),
        pytest.raises(SinkUnavailable, match="timed out"),
    ):
        await sink.upsert_windows([window("a", 1)])
    assert await retrying(lambda: sink.upsert_windows([window("a", 1)])) == Outcome()
    await sink.close()


FAILURES: dict[str, dict[str, Any]] = {
    "not primary": {"errorCode": 10107},
    "shutting down": {"errorCode": 91},
    "unauthorized": {"errorCode": 13},
    "connection closed": {"closeConnection": True},
    "no majority": {"writeConcernError": {"code": 64, "errmsg": "waiting for replication timed out"}},
}


@pytest.mark.parametrize(
    ("command", "failure"),
    [
        (command, failure)
        for command in ("insert", "update", "find")
        for failure in FAILURES
        if (command, failure) != ("find", "no majority")
    ],
)
async def test_a_failing_server_is_no_documents_fault(
    sink: MongoSink, db: Database[Document], failing: Callable[..., Any], command: str, failure: str
) -> None:
    behind, higher = window("a", 1), window("b", 2)
    await sink.upsert_windows([window("a", 2), window("b", 1)])
    with failing(command, **FAILURES[failure]), pytest.raises(SinkUnavailable) as caught:
        await sink.upsert_windows([behind, higher])
    assert len(str(caught.value)) < 300
    assert await retrying(lambda: sink.upsert_windows([behind, higher])) == Outcome(ahead={behind["_id"]: 2})
    assert stored(db["feedback_windows"])[higher["_id"]]["count"] == 2


@pytest.mark.parametrize("command", ["insert", "update"])
async def test_a_failing_server_is_no_items_fault(
    sink: MongoSink, db: Database[Document], failing: Callable[..., Any], command: str
) -> None:
    await sink.upsert_items([item("f", 1, ORIGIN)])
    with failing(command, errorCode=11600), pytest.raises(SinkUnavailable):
        await sink.upsert_items([item("f", 2, ORIGIN)])
    assert await retrying(lambda: sink.upsert_items([item("f", 2, ORIGIN)])) == 0
    assert stored(db["feedback"])["f"]["timestamp"] == date(2)


async def test_a_command_refused_for_one_document_refuses_that_document_alone(
    sink: MongoSink, db: Database[Document], failing: Callable[..., Any]
) -> None:
    # Two failures: of the batch of four, and of its first half. Then the halves of that half go through.
    documents = [window(f"agent-{number}", 1) for number in range(4)]
    with failing("insert", times=2, errorCode=10334):
        assert await sink.upsert_windows(documents) == Outcome()
    assert len(stored(db["feedback_windows"])) == 4
    for command in ("insert", "update"):
        with failing(command, errorCode=10334):
            outcome = await sink.upsert_windows(documents)
        assert set(outcome.refused) == {document["_id"] for document in documents}


@pytest.mark.parametrize("code", [50, 112, 189, 262, 11600, 14031])
def test_a_servers_failure_may_come_as_one_documents(code: int) -> None:
    details = {
        "nMatched": 1,
        "writeConcernErrors": [],
        "writeErrors": [{"index": 3, "code": code, "errmsg": "interrupted, full error: {'comment': 'private'}"}],
    }
    with pytest.raises(SinkUnavailable, match=f"interrupted \\(code {code}\\)") as caught:
        Written.from_details(details)
    assert "private" not in str(caught.value)


# --- items -----------------------------------------------------------------------------------------------------------

ORIGIN = Origin("feedback", 1, 10)


async def test_items_are_stored_as_they_are(sink: MongoSink, db: Database[Document]) -> None:
    items = [
        item(f"f-{number}", NOW + number, Origin("feedback", number % 3, number), score=5, comment="thanks", tags=["x"])
        for number in range(50)
    ]
    assert await sink.upsert_items(items) == 0
    assert stored(db["feedback"]) == {each["_id"]: each for each in items}
    assert await sink.upsert_items(items) == 0
    assert stored(db["feedback"]) == {each["_id"]: each for each in items}


async def test_what_users_write_stays_a_value(sink: MongoSink, db: Database[Document]) -> None:
    for ms in (1, 2):  # as an insert, and as a replacement
        newest = item("$f", ms, ORIGIN, comment="$$ROOT", tags=["$timestamp", "a.b"], userId="$userId")
        await sink.upsert_items([newest])
        assert stored(db["feedback"]) == {"$f": newest}


LOWER_THAN_ORIGIN = [Origin("feedback", 2, 9), Origin("feedback", 0, 10), Origin("a-topic", 1, 10)]


@pytest.mark.parametrize("lower", LOWER_THAN_ORIGIN)
@pytest.mark.parametrize("together", [True, False])
async def test_at_the_same_time_the_later_origin_stays(
    sink: MongoSink, db: Database[Document], lower: Origin, together: bool
) -> None:
    first, second = item("up", NOW, lower), item("up", NOW, ORIGIN)
    third, fourth = item("down", NOW, ORIGIN), item("down", NOW, lower)
    for batch in [[first, second, third, fourth]] if together else [[first, third], [second, fourth]]:
        assert await sink.upsert_items(batch) == 0
    assert stored(db["feedback"]) == {"up": second, "down": third}


async def test_the_later_timestamp_stays_whatever_the_origin(sink: MongoSink, db: Database[Document]) -> None:
    newer = item("f", NOW, Origin("feedback", 0, 1))
    for batch in ([item("f", NOW - 1, ORIGIN)], [newer], [item("f", NOW - 1, ORIGIN)]):
        assert await sink.upsert_items(batch) == 0
    assert stored(db["feedback"]) == {"f": newer}


async def test_a_bad_item_is_counted_and_the_others_are_stored(
    sink: MongoSink, db: Database[Document], caplog: pytest.LogCaptureFixture
) -> None:
    items = [item(f"f-{number}", NOW, Origin("feedback", 0, number)) for number in range(30)]
    items[3]["bad"] = 1 << 64
    items[20]["bad"] = "\ud800"
    assert await sink.upsert_items(items) == 2
    assert len(stored(db["feedback"])) == 28
    assert [message for message in caplog.messages if "2 of 30 items are refused" in message]
    del items[3]["bad"]
    assert await sink.upsert_items(items) == 1
    assert len(stored(db["feedback"])) == 29


async def test_a_replacement_that_is_refused_is_counted(sink: MongoSink, failing: Callable[..., Any]) -> None:
    await sink.upsert_items([item("f", 1, ORIGIN)])
    with failing("update", errorCode=10334):
        assert await sink.upsert_items([item("f", 2, ORIGIN), item("g", 2, ORIGIN)]) == 1


#: Items of few ids, at few times, from few places: nearly all of them meet an equal in some respect.
ORIGINS = st.builds(Origin, st.sampled_from(["a", "b"]), st.integers(0, 1), st.integers(0, 2))
CONTENT = st.tuples(st.sampled_from(["f", "g"]), st.integers(NOW, NOW + 1))
ITEMS = st.dictionaries(ORIGINS, CONTENT, min_size=1, max_size=8).map(
    lambda contents: [
        item(feedback_id, ms, origin, comment=str(origin)) for origin, (feedback_id, ms) in contents.items()
    ]
)


@st.composite
def deliveries(draw: st.DrawFn) -> tuple[list[Document], list[list[Document]], bool]:
    """Items, and batches that deliver each of them at least once, in any order, one after another or all at once."""
    items = draw(ITEMS)
    again = draw(st.lists(st.sampled_from(items), max_size=6))
    order = draw(st.permutations(items + again))
    cuts = sorted(draw(st.lists(st.integers(0, len(order)), max_size=4)))
    batches = [order[start:end] for start, end in zip([0, *cuts], [*cuts, len(order)], strict=True)]
    return items, batches, draw(st.booleans())


def test_the_order_of_delivery_does_not_matter(config: Settings, db: Database[Document]) -> None:
    with asyncio.Runner() as runner:
        sink = MongoSink(config)

        async def deliver(batches: list[list[Document]], at_once: bool) -> None:
            if at_once:
                await asyncio.gather(*(sink.upsert_items(batch) for batch in batches))
            else:
                for batch in batches:
                    await sink.upsert_items(batch)

        @hypothesis_settings(max_examples=150, deadline=None)
        @given(deliveries())
        def check(example: tuple[list[Document], list[list[Document]], bool]) -> None:
            items, batches, at_once = example
            db["feedback"].delete_many({})
            runner.run(deliver(batches, at_once))
            expected: dict[str, Document] = {}
            for each in sorted(items, key=lambda each: [each["timestamp"], *list(each["origin"].values())[::-1]]):
                expected[each["_id"]] = each
            assert stored(db["feedback"]) == expected

        check()
        runner.run(sink.close())
