"""``/feedback/partitions``, and the commands ``windows`` and ``partitions``: either of two workers is asked."""

from __future__ import annotations

import asyncio
import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from feedback_app.core.partitioning import partition_of
from feedback_app.embedded.process import free_port
from feedback_app.embedded.worker import WorkerProcess, environment
from feedback_app.factory import create_app
from feedback_app.publisher import FeedbackPublisher
from feedback_app.settings import Settings
from feedback_app.topics import Topics
from feedback_app.web import partitions as page
from feedback_app.web import peers
from feedback_app.web.peers import FORWARDED
from tests.services.workers import until, workers_of

MakeSettings = Callable[..., Settings]

_TOKEN = "open-sesame"
_ALLOWED = {"Authorization": f"Bearer {_TOKEN}"}
_PARTITIONS = 4
_HOSTILE = "[red]agent[/red]\x1b[31m 1"
_HOME = partition_of(_HOSTILE, _PARTITIONS)
_QUIET = {"batch_time_ms": 3_600_000, "idle_ms": 3_600_000, "grace_ms": 1_000, "store_items": False}


class Workers(NamedTuple):
    """Two workers, the settings of the first, and when the one agent's events were, in ms."""

    settings: Settings
    one: WorkerProcess
    other: WorkerProcess
    now: int


def command(settings: Settings | None, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a command with the settings' token in the environment, unless *more* says otherwise."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("FEEDBACK_")}
    env |= {**(dict(environment(settings)) if settings else {}), "COLUMNS": "80", **more}
    line = [sys.executable, "-m", "faust", "-A", "feedback_app", *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False, env=env, timeout=60)


# -- two workers -----------------------------------------------------------------------------------------------------


@pytest.fixture
def two_workers(embedded_broker: str, settings: MakeSettings, tmp_path: Path) -> Iterator[Workers]:
    """Two workers that share the partitions, and one agent's three events counted in the window of this hour."""
    first, second = (settings(embedded_broker, partitions=_PARTITIONS, web_token=_TOKEN, **_QUIET) for _ in range(2))
    with workers_of(tmp_path, first, second) as (one, other):
        now = time.time_ns() // 1_000_000
        with FeedbackPublisher(first) as publisher:
            for number in range(3):
                publisher.publish(event(number, _HOSTILE, now))
        until(lambda: ready_rows(one)[_HOME]["watermark"] is not None)
        yield Workers(first, one, other, now)


def test_either_of_two_workers_tells_of_all_partitions(two_workers: Workers) -> None:
    settings, one, other, now = two_workers
    feedback = Topics.of(settings).feedback
    hour = 3_600_000
    assert one.get("/feedback/partitions")[0] == 401
    for worker in (one, other):
        status, body = worker.get("/feedback/partitions", **_ALLOWED)
        assert (status, body["unanswered"]) == (200, [])
        rows = body["partitions"]
        assert [(row["partition"], row["state"]) for row in rows] == [(n, "ready") for n in range(_PARTITIONS)]
        counted = rows[_HOME]
        assert milliseconds(counted["watermark"]) == now - 1_000
        assert milliseconds(counted["newestOpenEnd"]) == now - now % hour + hour
        assert milliseconds(counted["silentSince"]) >= now
        assert counted["offsets"] == {feedback: 3}
        empty = rows[(_HOME + 1) % _PARTITIONS]
        assert (empty["watermark"], empty["newestOpenEnd"]) == (None, None)

        # One that is marked as passed on speaks for itself.
        own = worker.get("/feedback/partitions", **_ALLOWED, **{FORWARDED: "1"})[1]["partitions"]
        assert {row["owner"] for row in own} == {worker.url}
        assert 0 < len(own) < _PARTITIONS

    listed = command(settings, "partitions", "--url", one.url)
    assert listed.returncode == 0, listed.stderr
    for url in (one.url, other.url):
        assert url in listed.stdout
    assert f"{feedback} 3" in listed.stdout
    as_json = command(settings, "partitions", "--json", FEEDBACK_WEB_PORT=str(other.port))
    assert orjson.loads(as_json.stdout)["partitions"] == rows


def test_either_of_two_workers_tells_of_an_agents_windows(two_workers: Workers) -> None:
    settings, one, other, _ = two_workers
    shown = command(settings, "windows", "--url", one.url, "--", _HOSTILE)
    assert shown.returncode == 0, shown.stderr
    assert "[red]agent[/red]\\x1b[31m 1" in shown.stdout
    assert "\x1b[31m" not in shown.stdout
    assert "5.00" in shown.stdout
    as_json = command(None, "windows", "--url", other.url, "--token", _TOKEN, "--json", "--", _HOSTILE)
    (window,) = orjson.loads(as_json.stdout)["open"]
    assert (window["agentId"], window["count"]) == (_HOSTILE, 3)
    nothing = command(settings, "windows", "--url", one.url, "agent-2")
    assert (nothing.returncode, nothing.stdout.partition(" (")[0]) == (0, "agent agent-2 has no open window")


def test_a_worker_that_nobody_has_missed_yet_is_named(two_workers: Workers) -> None:
    settings, one, other, _ = two_workers
    theirs = {row["partition"] for row in ready_rows(one) if row["owner"] == other.url}
    other.kill()
    gone = command(settings, "partitions", "--url", one.url, "--json")
    assert gone.returncode == 1
    told = orjson.loads(gone.stdout)
    assert told["unanswered"] == [other.url]
    assert {row["partition"]: row["state"] for row in told["partitions"]} == {
        number: "unknown" if number in theirs else "ready" for number in range(_PARTITIONS)
    }
    assert f"{other.url} did not answer" in command(settings, "partitions", "--url", one.url).stdout


def ready_rows(worker: WorkerProcess) -> list[dict[str, Any]]:
    """Return all partitions once all are ready; nothing before."""
    status, body = worker.get("/feedback/partitions", **_ALLOWED)
    rows: list[dict[str, Any]] = body["partitions"] if status == 200 else []
    return rows if rows and all(row["state"] == "ready" for row in rows) else []


def event(number: int, agent: str, timestamp: int) -> dict[str, Any]:
    return {
        "feedbackId": f"f-{number}",
        "agentId": agent,
        "userId": "user",
        "rating": "positive",
        "score": 5,
        "timestamp": timestamp,
    }


def milliseconds(time_: str) -> int:
    return round(datetime.fromisoformat(time_).timestamp() * 1_000)


def assert_refused(result: subprocess.CompletedProcess[str], reason: str, code: int = 1) -> None:
    """One line on stderr, and nothing of the token."""
    assert result.returncode == code
    assert reason in result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert _TOKEN not in result.stderr
    if code == 1:
        assert result.stderr.count("\n") == 1


# -- what another worker may answer ----------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def asked(settings: MakeSettings, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Any]:
    """Return ``await asked(handler)``: what a worker says of partitions whose owner answers by *handler*."""
    clients: list[TestClient[web.Request, web.Application]] = []
    apps: list[Any] = []

    async def ask(handler: Any) -> dict[str, Any]:
        service = web.Application()
        service.router.add_get("/{tail:.*}", handler)
        somewhere = TestClient(TestServer(service))
        ours = settings("kafka://127.0.0.1:1", mongodb_url="mongodb://127.0.0.1:1", partitions=2, web_token=_TOKEN)
        app = create_app(ours)
        apps.append(app)
        driver: Any = app.web
        driver.init_server()
        clients.extend([somewhere, TestClient(TestServer(driver.web_app))])
        for client in clients[-2:]:
            await client.start_server()
        metadata = {str(somewhere.make_url("/")): {app.windows.changelog: [0]}}
        monkeypatch.setattr(app.assignor, "tables_metadata", lambda: metadata)
        async with clients[-1].get("/feedback/partitions", headers=_ALLOWED) as answer:
            assert answer.status == 200
            body: dict[str, Any] = await answer.json()
        assert [row["partition"] for row in body["partitions"]] == [0, 1]
        assert body["partitions"][1] == {"partition": 1, "owner": None, "state": "unknown"}
        body["unanswered"] = len(body["unanswered"])
        return body

    yield ask
    for client in clients:
        await client.close()
    for app in apps:
        await app._maybe_close_http_client()
        await app.sink.close()


@pytest.mark.parametrize(
    "body",
    [
        b"<script>",
        b"[]",
        b"{}",
        b'{"partitions": 7}',
        b'{"partitions": [7]}',
        b'{"partitions": [{"partition": {}}]}',
        b'{"partitions": "' + b" " * page._LARGEST_ANSWER + b'"}',
    ],
    ids=repr,
)
async def test_what_is_no_answer_counts_as_none(asked: Any, body: bytes) -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    told = await asked(answer)
    assert (told["partitions"][0]["state"], told["unanswered"]) == ("unknown", 1)


async def test_a_redirect_is_not_followed(asked: Any) -> None:
    heard = []

    async def answer(request: web.Request) -> web.Response:
        heard.append((request.path, request.headers.get("Authorization"), FORWARDED in request.headers))
        raise web.HTTPFound("/elsewhere")

    assert (await asked(answer))["unanswered"] == 1
    assert heard == [("/feedback/partitions", f"Bearer {_TOKEN}", True)]


async def test_who_hangs_is_not_waited_for(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_ANSWER_S", 0.3)
    hang = threading.Event()

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        while not hang.is_set():
            await response.write(b" ")
            await asyncio.sleep(0.05)
        return response

    began = time.monotonic()
    told = await asked(answer)
    hang.set()
    assert told["unanswered"] == 1
    assert time.monotonic() - began < 5


async def test_of_an_answer_only_what_a_worker_says_is_passed_on(asked: Any) -> None:
    row = {
        "partition": 0,
        "owner": "<script>",
        "state": "ready",
        "watermark": "<script>",
        "floor": "2026-11-24T12:00:00.123000Z",
        "silentSince": 7,
        "offsets": {"<script>": 1},
        "more": "<script>",
    }

    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"partitions": [row, row | {"partition": 1}]})

    told = await asked(answer)
    found = told["partitions"][0]
    assert found.pop("owner").startswith("http://127.0.0.1:")
    assert found == {
        "partition": 0,
        "state": "ready",
        "watermark": None,
        "floor": "2026-11-24T12:00:00.123000Z",
        "newestOpenEnd": None,
        "silentSince": None,
        "offsets": {},
    }
    assert told["unanswered"] == 0


# -- what the commands make of answers -------------------------------------------------------------------------------


@contextmanager
def answering(status: int, body: bytes, **headers: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the URL of something that always answers the same, and what it has heard."""
    heard: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.append(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", heard
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (200, b"<script>", "the answer is not a worker's"),
        (200, b"[]", "the answer is not a worker's"),
        (200, b"", "the answer is not a worker's"),
        (404, b"<script>", "the answer is not a worker's (status 404)"),
        (401, b"", "the worker wants its token"),
        (503, b'{"error": "partition 3 is changing hands; try\\n\\u001b[31m again"}', "try\\n\\x1b[31m again"),
    ],
)
def test_an_answer_that_is_none_is_told_in_one_line(status: int, body: bytes, reason: str) -> None:
    with answering(status, body) as (url, _):
        assert_refused(command(None, "partitions", "--url", url, "--token", _TOKEN), reason)


def test_a_token_outside_ascii_is_refused_like_any_other() -> None:
    with answering(401, b"") as (url, heard):
        assert_refused(command(None, "partitions", "--url", url, "--token", "töken"), "the worker wants its token")
    assert heard == ["/feedback/partitions"]


def test_the_commands_follow_no_redirect() -> None:
    with answering(302, b"", Location="/elsewhere") as (url, heard):
        assert_refused(command(None, "windows", "a/..", "--url", url, "--token", _TOKEN), "(status 302)")
    assert heard == ["/feedback/agents/a%2F..?limit=0"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["partitions", "--url", "file:///etc/passwd"],
        ["partitions", "--url", "worker-1:6066"],
        ["partitions", "--url", f"http://me:{_TOKEN}@worker-1:6066"],
        ["partitions", "--url", "http://worker-1:port"],
        ["partitions", "--url", "http://worker-1\r\nX: y"],
        ["partitions", "--token", f"{_TOKEN}\r\nX: y"],
        ["windows"],
        ["windows", "x" * 129],
    ],
)
def test_what_makes_no_sense_is_refused(arguments: list[str]) -> None:
    assert_refused(command(None, *arguments), "Error: ", code=2)


def test_nobody_there() -> None:
    result = command(None, "partitions", FEEDBACK_WEB_PORT=str(free_port()))
    assert_refused(result, "no answer (Connection refused); is a worker running there? See --url")
