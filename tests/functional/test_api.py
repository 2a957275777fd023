"""The JSON behind the dashboard, as an application answers that is alone: parameters, errors, who watches."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import orjson
import pytest
from aiohttp import web

from feedback_app.core.documents import date
from feedback_app.factory import create_app
from feedback_app.settings import Settings
from feedback_app.sinks import SinkUnavailable
from feedback_app.sinks.archive import Archive
from feedback_app.web import cluster, stream
from feedback_app.web.overview import overview
from feedback_app.web.peers import FORWARDED, members

MakeSettings = Callable[..., Settings]
Serve = Callable[..., Any]

_TOKEN = "open-sesame"
_ALLOWED = {"Authorization": f"Bearer {_TOKEN}"}


# -- parameters and errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("agents?limit=0", "limit: must be a whole number from 1 to 100"),
        ("agents?limit=101", "limit: must be a whole number from 1 to 100"),
        ("agents?limit=%2B5", "limit: must be a whole number from 1 to 100"),
        ("agents?limit=5.0", "limit: must be a whole number from 1 to 100"),
        ("agents?limit=٣", "limit: must be a whole number from 1 to 100"),
        ("agents?limit=", "limit: must be a whole number from 1 to 100"),
        ("agents?limit=" + "9" * 5_000, "limit: must be a whole number from 1 to 100"),
        ("agents?limit=5&limit=6", "limit: must be given once"),
        ("agents?offset=-1", "offset: must be a whole number from 0 to 10000"),
        ("agents?offset=10001", "offset: must be a whole number from 0 to 10000"),
        ("agents?minEvents=x", "minEvents: must be a whole number from 0 to 1000000000"),
        ("agents?order=<script>", "order: must be one of volume, negative"),
        ("agents/agent-1?limit=501", "limit: must be a whole number from 0 to 500"),
        ("agents/agent-1?before=<script>", "before: must be a time such as"),
        ("agents/agent-1?before=2026-11-24T12:00:00", "before: must be a time such as"),
        ("agents/agent-1?before=2026-13-24T12:00:00Z", "before: must be a time such as"),
        ("dead-letters?limit=201", "limit: must be a whole number from 1 to 200"),
        ("dead-letters?before=<script>", "before: must be what the last answer had as next"),
        ("dead-letters?before=1-2.1-3", "before: must be what the last answer had as next"),
        ("dead-letters/x/1", "partition: must be a whole number"),
        (f"dead-letters/1/{1 << 63}", "offset: must be a whole number"),
    ],
)
async def test_parameters_that_make_no_sense_are_refused(
    offline: MakeSettings, serve: Serve, path: str, error: str
) -> None:
    client = await serve(create_app(offline()))
    async with client.get(f"/feedback/{path}") as answer:
        assert answer.status == 400
        assert (await answer.json())["error"].startswith(error)


async def test_nothing_is_to_be_kept_by_anyone(offline: MakeSettings, serve: Serve) -> None:
    client = await serve(create_app(offline()))
    for path in ("/feedback/overview", "/feedback/history", "/feedback/agents", "/feedback/agents?limit=0"):
        async with client.get(path) as answer:
            assert answer.headers["Cache-Control"] == "no-store"


async def test_a_broker_that_is_away_is_told_in_time_and_nothing_of_it(offline: MakeSettings, serve: Serve) -> None:
    client = await serve(create_app(offline()))
    for path in ("/feedback/dead-letters", "/feedback/dead-letters/0/0"):
        began = time.monotonic()
        async with client.get(path) as answer:
            assert answer.status == 503
            assert "Retry-After" in answer.headers
            assert await answer.json() == {"error": "the broker does not send dead letters; is it up?"}
        assert time.monotonic() - began < 5


async def test_few_ask_for_letters_at_once(offline: MakeSettings, serve: Serve) -> None:
    client = await serve(create_app(offline()))
    answers = await asyncio.gather(*(client.get(f"/feedback/dead-letters/0/{offset}") for offset in range(20)))
    told = [(await answer.json())["error"] for answer in answers]
    assert {answer.status for answer in answers} == {503}
    assert told.count("too many ask for dead letters") == 12


async def test_a_database_that_is_away_is_told_in_time_and_asked_once(
    offline: MakeSettings, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    find = Archive.ranked

    async def counted(*arguments: Any, **more: Any) -> Any:
        nonlocal asked
        asked += 1
        return await find(*arguments, **more)

    async def seen(self: cluster.Cluster, request: Any) -> cluster.Seen:
        return cluster.Seen(b"{}", date(1_795_000_000_000))

    monkeypatch.setattr(Archive, "ranked", counted)
    monkeypatch.setattr(cluster.Cluster, "overview", seen)
    client = await serve(create_app(offline()))
    began = time.monotonic()
    answers = await asyncio.gather(*(client.get("/feedback/agents") for _ in range(20)))
    assert time.monotonic() - began < 8
    for answer in answers:
        assert answer.status == 503
        body = await answer.json()
        assert body["error"].startswith("the database does not answer: ")
        assert "{" not in body["error"]
    assert asked == 1


async def test_a_database_that_is_away_is_no_other_error(offline: MakeSettings) -> None:
    app = create_app(offline())
    archive: Any = app.sink
    with pytest.raises(SinkUnavailable):
        await archive.archive().recent("agent-1", None, 1)
    await app.sink.close()


# -- what other workers may say --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [b"<script>", b"[]", b"{}", b"[" * 100_000, b'{"state": "' + b" " * cluster._LARGEST_ANSWER + b'"}'],
    ids=lambda body: repr(body[:10]),
)
async def test_what_is_no_answer_counts_as_none(
    offline: MakeSettings, serve: Serve, monkeypatch: pytest.MonkeyPatch, body: bytes
) -> None:
    heard = []

    async def other(request: web.Request) -> web.Response:
        heard.append((request.path, request.headers.get("Authorization"), FORWARDED in request.headers))
        return web.Response(body=body, content_type="application/json")

    service = web.Application()
    service.router.add_get("/{tail:.*}", other)
    url = str((await serve(service)).make_url("")).rstrip("/")
    app = create_app(offline(web_token=_TOKEN, partitions=2))
    monkeypatch.setattr(app.assignor, "tables_metadata", lambda: {url: {app.windows.changelog: [0]}, "ftp://x": {}})
    client = await serve(app)
    for path in ("/feedback/overview", "/feedback/history"):
        async with client.get(path, headers=_ALLOWED) as answer:
            told = await answer.json()
            assert (answer.status, told["unanswered"]) == (200, [url])
    assert heard == [(path, f"Bearer {_TOKEN}", True) for path in ("/feedback/overview", "/feedback/history")]
    async with client.get("/feedback/overview", headers=_ALLOWED) as answer:
        told = await answer.json()
    assert [(row["owner"], row["state"]) for row in told["partitions"]] == [(url, "unknown"), (None, "unknown")]


async def test_however_many_ask_the_others_are_asked_once(
    offline: MakeSettings, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    async def other(request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        raise web.HTTPNotFound

    service = web.Application()
    service.router.add_get("/{tail:.*}", other)
    url = str((await serve(service)).make_url("")).rstrip("/")
    app = create_app(offline())
    monkeypatch.setattr(app.assignor, "tables_metadata", lambda: {url: {}})
    client = await serve(app)
    answers = await asyncio.gather(*(client.get("/feedback/overview") for _ in range(50)))
    assert {answer.status for answer in answers} == {200}
    assert asked == 1


def test_only_addresses_of_workers_are_asked() -> None:
    assert members({"http://one:1/": {}, "http://[::1]:2": {}, "https://x": {}, "file:///etc/passwd": {}, "": {}}) == {
        "http://one:1",
        "http://[::1]:2",
    }


# -- who watches -----------------------------------------------------------------------------------------------------


async def read_event(answer: Any) -> Any:
    """Return what the next overview says."""
    lines = []
    async with asyncio.timeout(20):
        while line := (await answer.content.readline()).decode().rstrip("\n"):
            lines.append(line)
    assert lines[0] == "event: overview"
    return orjson.loads(lines[1].removeprefix("data: "))


async def begin(answer: Any) -> None:
    """Read how long to wait before coming back."""
    assert (await answer.content.readline()).startswith(b"retry: ")
    assert await answer.content.readline() == b"\n"


async def test_watchers_share_what_they_see_and_are_told_of_the_end(
    offline: MakeSettings, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = 0

    def counted(*arguments: Any) -> Any:
        nonlocal made
        made += 1
        return overview(*arguments)

    monkeypatch.setattr(cluster, "overview", counted)
    app = create_app(offline(web_token=_TOKEN))
    client = await serve(app)
    async with client.get("/feedback/stream") as refused:
        assert refused.status == 401
    async with AsyncExitStack() as stack:
        watchers = []
        for _ in range(10):
            watcher = await stack.enter_async_context(client.get("/feedback/stream", headers=_ALLOWED))
            assert (watcher.status, watcher.content_type) == (200, "text/event-stream")
            assert watcher.headers["X-Content-Type-Options"] == "nosniff"
            await begin(watcher)
            watchers.append(watcher)
        for most in (1, 3):
            seen = await asyncio.gather(*map(read_event, watchers))
            assert len({each["time"] for each in seen}) <= made <= most
            assert seen[0]["partitions"][0]["state"] == "unknown"
        app.watching.close()
        for watcher in watchers:
            assert await watcher.content.read() == b""
    async with client.get("/feedback/stream", headers=_ALLOWED) as late:
        assert (late.status, await late.json()) == (503, {"error": "the worker is being stopped"})


async def test_there_is_room_for_a_number_of_watchers_and_none_is_kept_who_is_gone(
    offline: MakeSettings, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stream.MOST_WATCHERS == 50
    app = create_app(offline())
    monkeypatch.setattr(app.watching, "_most", 2)
    monkeypatch.setattr(app.watching, "_every_s", 0.05)
    client = await serve(app)
    first, second = [await client.get("/feedback/stream") for _ in range(2)]
    async with client.get("/feedback/stream") as third:
        assert (third.status, await third.json()) == (503, {"error": "too many watch already"})
    first.close()
    async with asyncio.timeout(20):
        while app.watching._watchers > 1:  # noqa: ASYNC110  # it has no event to wait for
            await asyncio.sleep(0.01)
    third = await client.get("/feedback/stream")
    assert third.status == 200
    for watcher in (second, third):
        watcher.close()
    async with asyncio.timeout(20):
        while app.watching._watchers:  # noqa: ASYNC110  # nor this
            await asyncio.sleep(0.01)


async def test_who_asks_for_the_head_of_the_stream_gets_no_more(offline: MakeSettings, serve: Serve) -> None:
    client = await serve(create_app(offline()))
    async with client.head("/feedback/stream") as answer:
        assert (answer.status, answer.content_type) == (200, "text/event-stream")
