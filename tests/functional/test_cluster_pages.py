"""What any worker answers about all of them, on embedded parts: one is frozen, killed, stopped while it is watched."""

from __future__ import annotations

import http.client
import os
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest

from feedback_app.core.partitioning import partition_of
from feedback_app.embedded.database import EmbeddedDatabase
from feedback_app.embedded.worker import WorkerProcess
from feedback_app.publisher import FeedbackPublisher
from feedback_app.settings import Settings
from feedback_app.topics import Topics
from feedback_app.web.peers import FORWARDED
from tests.functional.test_metrics import short_of_patience
from tests.functional.test_pages import _AGENTS
from tests.functional.test_worker import closed, database_of, event, open_count
from tests.services.metrics import Scrape
from tests.services.workers import (
    QUIET,
    SHORT_WINDOWS,
    STOPS_WITHIN_S,
    StartWorker,
    owners,
    terminate,
    until,
    workers_of,
)

MakeSettings = Callable[..., Settings]

_TOKEN = "open-sesame"
_ALLOWED = {"Authorization": f"Bearer {_TOKEN}"}
_RATINGS = ("positive", "negative", "neutral")


def overview(worker: WorkerProcess, **headers: str) -> dict[str, Any]:
    status, body = worker.get("/feedback/overview", **_ALLOWED, **headers)
    assert status == 200
    answer: dict[str, Any] = body
    return answer


def rate(settings: Settings, counts: dict[str, tuple[int, int, int]], timestamp: int) -> None:
    """Send events: of each agent so many positive, negative and neutral ones."""
    number = 0
    with FeedbackPublisher(settings) as publisher:
        for agent, of_each in counts.items():
            for rating, count in zip(_RATINGS, of_each, strict=True):
                for _ in range(count):
                    number += 1
                    fields = {"feedbackId": f"{agent}-{number}", "agentId": agent, "userId": "u", "rating": rating}
                    publisher.publish(fields | {"timestamp": timestamp})


# -- the cluster -----------------------------------------------------------------------------------------------------


def test_any_worker_tells_of_the_cluster_and_of_one_that_is_gone(
    embedded_broker: str, settings: MakeSettings, tmp_path: Path
) -> None:
    ours = [settings(embedded_broker, web_token=_TOKEN, **SHORT_WINDOWS | {"partitions": 4}) for _ in range(2)]
    with workers_of(tmp_path, *ours) as (one, other):
        for path in ("overview", "history", "agents", "dead-letters", "dead-letters/0/0", "stream"):
            assert one.get(f"/feedback/{path}")[0] == 401, path
        now = time.time_ns() // 1_000_000
        rate(ours[0], {f"agent-{number}": (1, 2, 0) for number in range(20)}, now)
        with FeedbackPublisher(ours[0]) as publisher:
            for number in range(7):
                publisher.publish_bytes(b"x", b"{", partition=number % 4)
        verdict = closed(ours[0])
        assert (verdict.counted, verdict.dead_lettered) == (60, 7)
        for worker in (one, other):
            until(lambda: overview(worker)["totals"]["windowsClosed"] == verdict.documents, 30)  # noqa: B023  # called at once
            told = overview(worker)
            check_whole(told, ours[0], one, other, verdict.documents)
            until(lambda: len(history(worker)["times"]) >= 1, 30)  # noqa: B023  # the same
            check_history(history(worker))
            # To another worker each tells of itself.
            own = overview(worker, **{FORWARDED: "1"})
            assert {row["partition"] for row in own["partitions"]} == {
                row["partition"] for row in told["partitions"] if row["owner"] == worker.url
            }

        # One that is frozen is not waited for, and told of.
        theirs = {row["partition"] for row in told["partitions"] if row["owner"] == other.url}
        os.kill(other.pid, signal.SIGSTOP)
        try:
            assert wait_for_silence(one, other, theirs) < 1.9
        finally:
            os.kill(other.pid, signal.SIGCONT)
        until(lambda: owners(one) == {one.url, other.url})
        theirs = {row["partition"] for row in overview(one)["partitions"] if row["owner"] == other.url}
        other.kill()
        assert wait_for_silence(one, other, theirs) < 1
        until(lambda: history(one)["unanswered"] == [other.url], 10)
        # Then the group notices.
        until(lambda: owners(one) == {one.url})
        assert overview(one)["unanswered"] == []
        assert [worker["url"] for worker in overview(one)["workers"]] == [one.url]


def check_whole(told: dict[str, Any], ours: Settings, one: WorkerProcess, other: WorkerProcess, windows: int) -> None:
    """Everything was counted and closed: the overview must say so, and what the workers' metrics say."""
    assert (told["mode"], told["windowMs"], told["graceMs"]) == ("hybrid", ours.batch_time_ms, ours.grace_ms)
    assert told["unanswered"] == []
    assert [(row["url"], row["state"]) for row in told["workers"]] == sorted(
        (worker.url, "ready") for worker in (one, other)
    )
    assert sorted(number for row in told["workers"] for number in row["partitions"]) == [0, 1, 2, 3]
    assert [row["partition"] for row in told["partitions"]] == [0, 1, 2, 3]
    offsets: Counter[str] = Counter()
    for row in told["partitions"]:
        assert (row["state"], row["lag"], row["openWindows"], row["dueWindows"]) == ("ready", 0, 0, 0)
        offsets.update(row["offsets"])
    assert offsets[Topics.of(ours).feedback] == 67
    assert any(row["watermark"] for row in told["partitions"])
    assert told["totals"] == {
        "records": 67,
        "counted": 60,
        "late": 0,
        "deadLetters": 7,
        "forwarded": 0,
        "windowsClosed": windows,
        "windowsAmended": 0,
        "aggregatedEvents": windows,
        "lag": 0,
        "openWindows": 0,
        "dueWindows": 0,
    }
    flushes = sum(Scrape.of(worker, **_ALLOWED).total("feedback_flushes_total") for worker in (one, other))
    figures = told["figures"]
    assert figures["batchSize"] == pytest.approx(windows / flushes, abs=0.001)
    assert figures["flushRate"] > 0
    assert figures["mongodbOperationsPerSecond"] >= figures["eventsPublishedPerSecond"] > 0
    assert 0 < told["closeDelaySeconds"] < figures["batchAgeSeconds"]
    assert told["sink"] == {"name": "mongodb", "up": True, "reason": "", "failedCommands": 0}


def history(worker: WorkerProcess) -> dict[str, Any]:
    status, body = worker.get("/feedback/history", **_ALLOWED)
    assert status == 200
    answer: dict[str, Any] = body
    return answer


def check_history(told: dict[str, Any]) -> None:
    times = [datetime.fromisoformat(time_) for time_ in told["times"]]
    assert all(after - before == timedelta(seconds=10) for before, after in pairwise(times))
    assert {len(column) for column in told["series"].values()} == {len(times)}
    assert told["unanswered"] == []


def wait_for_silence(one: WorkerProcess, other: WorkerProcess, theirs: set[int]) -> float:
    """Wait until one tells that the other does not answer, and of the rest all the same; return the longest that an
    answer took meanwhile."""
    longest = 0.0

    def silent() -> bool:
        nonlocal longest
        began = time.monotonic()
        answer = overview(one)
        longest = max(longest, time.monotonic() - began)
        return bool(answer["unanswered"] == [other.url])

    until(silent, 10)
    told = overview(one)
    assert {row["partition"]: row["state"] for row in told["partitions"]} == {
        number: "unknown" if number in theirs else "ready" for number in range(4)
    }
    assert [(row["url"], row["state"]) for row in told["workers"]] == sorted(
        [(one.url, "ready"), (other.url, "unknown")]
    )
    return longest


def test_of_three_workers_whichever_is_asked_answers_for_every_agent(
    embedded_broker: str, settings: MakeSettings, tmp_path: Path
) -> None:
    """Faust's own way of finding the owner is reported to fail with three (faust-streaming issue 514)."""
    ours = [settings(embedded_broker, web_token=_TOKEN, **SHORT_WINDOWS | QUIET | {"partitions": 7}) for _ in range(3)]
    agents = [*_AGENTS, *(f"agent-{number}" for number in range(2, 30))]
    now = time.time_ns() // 1_000_000
    with workers_of(tmp_path, *ours) as workers:
        rate(ours[0], {agent: (number + 1, 0, 0) for number, agent in enumerate(agents)}, now)
        for worker in workers:
            for number, agent in enumerate(agents):
                path = f"/feedback/agents/{quote(agent, safe='')}"
                if agent not in {".", ".."}:  # urllib would take a step
                    until(lambda: open_count(worker, quote(agent, safe=""), **_ALLOWED) == number + 1, 30)  # noqa: B023  # called at once
                    status, body = worker.get(path, **_ALLOWED)
                    assert (status, body["agentId"]) == (200, agent)
                    assert body["partition"] == partition_of(agent, 7)
                    assert body["recent"] == []
        # Each of the three has some of them, so two thirds of the answers were another worker's.
        marked = _ALLOWED | {FORWARDED: "1"}
        own = [
            sum(worker.get(f"/feedback/agents/agent-{number}", **marked)[0] == 200 for number in range(2, 30))
            for worker in workers
        ]
        assert all(own)
        assert sum(own) == 28


# -- from the database -----------------------------------------------------------------------------------------------


def test_agents_are_ranked_by_their_latest_windows(
    embedded_broker: str, settings: MakeSettings, start_worker: StartWorker
) -> None:
    ours = settings(embedded_broker, **SHORT_WINDOWS)
    worker = start_worker(ours)
    size = ours.batch_time_ms
    base = (time.time_ns() // 1_000_000 - 30_000) // size * size
    # Window by window: one that is too old to be looked at, then two that are.
    rate(ours, {"old": (50, 0, 0)}, base - 5 * size)
    first = {f"agent-{number:02}": (number, 20 - number, 1) for number in range(12)}
    rate(ours, {"few": (0, 3, 0), "<script>": (30, 0, 0), **first}, base)
    rate(ours, {"agent-00": (40, 0, 0), "late": (1, 0, 0)}, base + size)
    closed(ours)
    with database_of(ours) as database:
        stored = list(database.feedback_windows.find({"windowStart": {"$gte": at(base)}}))
    sums: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for document in stored:
        sums[document["agentId"]].update({name: document[name] for name in ("count", *_RATINGS)})
    expected: list[dict[str, Any]] = [
        {
            "agentId": agent,
            "events": of["count"],
            **{rating: of[rating] for rating in _RATINGS},
            "negativeShare": round(of["negative"] / of["count"], 4),
        }
        for agent, of in sums.items()
    ]
    assert len(expected) == 15

    by_volume = sorted(expected, key=lambda row: (-row["events"], row["agentId"]))
    assert ranked(worker, "") == by_volume
    assert ranked(worker, "order=volume&limit=2&") == by_volume
    by_share = sorted(expected, key=lambda row: (-row["negativeShare"], -row["events"], row["agentId"]))
    assert ranked(worker, "order=negative&minEvents=0&") == by_share
    assert ranked(worker, "order=negative&limit=3&") == [row for row in by_share if row["events"] >= 10]

    _, whole = worker.get("/feedback/agents")
    newest = base + 2 * size
    assert datetime.fromisoformat(whole["from"]) <= at(base)
    assert datetime.fromisoformat(whole["to"]) == at(newest)
    assert worker.get("/feedback/agents?offset=10000")[1]["agents"] == []


def ranked(worker: WorkerProcess, query: str) -> list[dict[str, Any]]:
    """Return all agents, page by page."""
    found: list[dict[str, Any]] = []
    following: int | None = 0
    while following is not None:
        status, body = worker.get(f"/feedback/agents?{query}offset={following}")
        assert status == 200, body
        found += body["agents"]
        following = body["next"]
    return found


def at(ms: int) -> datetime:
    return datetime.fromisoformat("1970-01-01T00:00:00+00:00") + timedelta(milliseconds=ms)


def test_recent_windows_come_page_by_page(
    embedded_broker: str, settings: MakeSettings, start_worker: StartWorker
) -> None:
    ours = settings(embedded_broker, **SHORT_WINDOWS)
    worker = start_worker(ours)
    now = time.time_ns() // 1_000_000
    rate(ours, {"agent-1": (3, 1, 0), "agent-2": (1, 0, 0)}, now)
    closed(ours)
    with database_of(ours) as database:
        windows = database.feedback_windows
        document = windows.find_one({"agentId": "agent-1"})
        assert document is not None
        document["tags"] = [{"tag": "<script>alert(1)</script>", "count": 1}]
        for number in range(1, 130):
            shift = timedelta(milliseconds=ours.batch_time_ms * number)
            window = {"windowStart": document["windowStart"] - shift, "windowEnd": document["windowEnd"] - shift}
            windows.insert_one({**document, "_id": f"agent-1|{number}", **window, "unknown": "field"})
        stored = sorted(windows.find({"agentId": "agent-1"}), key=lambda each: each["windowStart"], reverse=True)

    status, body = worker.get("/feedback/agents/agent-1")
    assert (status, body["open"], body["recentError"], len(body["recent"])) == (200, [], None, 50)
    assert "unknown" not in body["recent"][1]
    assert body["recent"][0]["closedAt"].endswith("Z")
    assert body["recent"][1]["tags"] == document["tags"]
    for limit in (7, 50, 500):
        found: list[str] = []
        before = ""
        while True:
            status, body = worker.get(f"/feedback/agents/agent-1?limit={limit}{before}")
            assert status == 200, body
            assert len(body["recent"]) <= limit
            found += [window["_id"] for window in body["recent"]]
            if body["next"] is None:
                break
            assert body["next"] == body["recent"][-1]["windowStart"]
            before = f"&before={quote(body['next'])}"
        assert found == [each["_id"] for each in stored]
    nothing = worker.get("/feedback/agents/agent-1?limit=0")[1]
    assert (nothing["recent"], nothing["next"], nothing["recentError"]) == ([], None, None)
    assert len(worker.get("/feedback/agents/agent-2")[1]["recent"]) == 1


def test_a_database_that_is_away_is_told_and_what_is_open_too(
    embedded_broker: str, settings: MakeSettings, start_worker: StartWorker, tmp_path: Path
) -> None:
    with EmbeddedDatabase(tmp_path / "database") as own_database:
        ours = settings(embedded_broker, mongodb_url=short_of_patience(own_database), **SHORT_WINDOWS)
        worker = start_worker(ours)
        rate(ours, {"agent-1": (3, 1, 0)}, time.time_ns() // 1_000_000)
        closed(ours)
        until(lambda: overview(worker)["sink"]["up"] is True, 30)
        assert len(worker.get("/feedback/agents/agent-1")[1]["recent"]) == 1

        own_database.kill()
        with FeedbackPublisher(ours) as publisher:
            for number in range(4):
                publisher.publish_bytes(b"agent-1", event(number, "agent-1", time.time_ns() // 1_000_000))
        until(lambda: overview(worker)["sink"]["up"] is False, 60)
        told = overview(worker)
        assert told["sink"]["failedCommands"] > 0
        assert told["sink"]["reason"]
        assert [row["state"] for row in told["workers"]] == ["degraded"]
        assert told["workers"][0]["reasons"][0].startswith("waiting for the database: ")
        assert open_count(worker, "agent-1") == 4
        status, body = worker.get("/feedback/agents/agent-1")
        assert (status, body["recent"], body["next"]) == (200, [], None)
        assert body["recentError"].startswith("the database does not answer: ")
        until(lambda: worker.get("/feedback/agents?limit=3")[0] == 503, 20)
        assert worker.get("/feedback/agents?limit=3")[1]["error"].startswith("the database does not answer: ")

        own_database.start()
        closed(ours)
        until(lambda: overview(worker)["sink"]["up"] is True, 30)
        until(lambda: worker.get("/feedback/agents/agent-1")[1]["recentError"] is None, 30)
        until(lambda: worker.get("/feedback/agents?limit=3")[0] == 200, 60)


# -- the stream ------------------------------------------------------------------------------------------------------


def test_a_watcher_sees_it_happen_and_does_not_hold_up_the_end(
    embedded_broker: str, settings: MakeSettings, start_worker: StartWorker
) -> None:
    ours = settings(embedded_broker, web_token=_TOKEN, **SHORT_WINDOWS | QUIET)
    worker = start_worker(ours)
    with watching(worker) as stream, watching(worker) as who_reads_nothing:
        before = next_event(stream)
        assert before["totals"]["counted"] == 0
        assert before.keys() == overview(worker).keys()
        rate(ours, {"agent-1": (3, 1, 0)}, time.time_ns() // 1_000_000)
        deadline = time.monotonic() + 60
        while next_event(stream)["totals"]["counted"] != 4:
            assert time.monotonic() < deadline
        began = time.monotonic()
        assert terminate(worker) == 0
        assert time.monotonic() - began < STOPS_WITHIN_S
        rest = [line for line in stream.read().decode().splitlines() if line]
        assert all(line.startswith(("event: ", "data: ")) for line in rest)
        assert who_reads_nothing.read()
    assert "Traceback" not in worker.log.read_text()


@contextmanager
def watching(worker: WorkerProcess) -> Iterator[http.client.HTTPResponse]:
    connection = http.client.HTTPConnection("127.0.0.1", worker.port, timeout=30)
    try:
        connection.request("GET", "/feedback/stream", headers=_ALLOWED)
        answer = connection.getresponse()
        assert (answer.status, answer.getheader("Content-Type")) == (200, "text/event-stream")
        assert answer.readline().startswith(b"retry: ")
        assert answer.readline() == b"\n"
        yield answer
    finally:
        connection.close()


def next_event(stream: http.client.HTTPResponse) -> dict[str, Any]:
    assert stream.readline() == b"event: overview\n"
    told: dict[str, Any] = orjson.loads(stream.readline().removeprefix(b"data: "))
    assert stream.readline() == b"\n"
    return told
