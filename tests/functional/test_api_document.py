"""What workers answer is what ``/feedback/openapi.json`` says, for every path and status that can be brought about."""

from __future__ import annotations

import asyncio
import io
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import faust
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient
from aiohttp.web_urldispatcher import UrlDispatcher

from feedback_app.application import FeedbackApp
from feedback_app.embedded.worker import WorkerProcess
from feedback_app.factory import create_app
from feedback_app.provisioning import open_database
from feedback_app.publisher import FeedbackPublisher
from feedback_app.settings import Settings
from feedback_app.topics import Topics
from feedback_app.verification.reading import TopicReader
from feedback_app.web.events import MOST_BYTES
from tests.services.api import ApiDocument
from tests.services.workers import SHORT_WINDOWS, StartWorker, until

MakeSettings = Callable[..., Settings]
Client = TestClient[web.Request, web.Application]

_API = ApiDocument()
_TOKEN = "open-sesame"
_BEARER = {"Authorization": f"Bearer {_TOKEN}"}
_HTML = {"Accept": "text/html"}
_JSON = {"Content-Type": "application/json"}
_FORM = {"Content-Type": "application/x-www-form-urlencoded"}
_ELSEWHERE = {"Sec-Fetch-Site": "cross-site"}
_EVENT = {"feedbackId": "f", "agentId": "agent-1", "userId": "u", "rating": "negative", "tags": ["slow"], "score": 2}


@dataclass(frozen=True, slots=True)
class Case:
    """A request, and the status of its answer.

    Attributes:
        path: as the document has it.
        url: what is asked for, if that is another text.
        headers: with the token, unless they say otherwise.
    """

    method: str
    path: str
    status: int
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=lambda: _BEARER)
    body: bytes | None = None

    @property
    def target(self) -> str:
        return self.url or self.path

    @property
    def answer(self) -> tuple[str, str, int]:
        return self.method, self.path, self.status

    def __str__(self) -> str:
        return f"{self.method} {self.target[:60]} {self.status}"


def event(**fields: Any) -> bytes:
    return json.dumps(_EVENT | {"timestamp": time.time_ns() // 1_000_000} | fields).encode()


def concrete(path: str) -> str:
    """Return a path with something in place of its parameters."""
    values = {"agentId": "agent-1", "partition": "0", "offset": "0", "name": "style.css"}
    return re.sub(r"{(\w+)}", lambda match: values[match[1]], path)


def without_login() -> Iterator[Case]:
    for method, path, operation in _API.operations():
        if "401" in operation["responses"] and path != "/feedback/login":
            yield Case(method, path, 401, concrete(path), {})
            if "text/html" in operation["responses"]["401"]["content"]:
                yield Case(method, path, 401, concrete(path), _HTML)


def wrong_parameters() -> Iterator[Case]:
    """Just beyond what the document allows."""
    for method, path, operation in _API.operations():
        for parameter in operation.get("parameters", []):
            of, name = parameter["schema"], parameter["name"]
            values = [
                *([of["maximum"] + 1] if "maximum" in of else []),
                *([of["minimum"] - 1] if "minimum" in of else []),
                *(["other"] if "enum" in of or of["type"] == "integer" else []),
                *(["x" * (of["maxLength"] + 1)] if "maxLength" in of else []),
            ]
            for value in values:
                if parameter["in"] == "query":
                    yield Case(method, path, 400, f"{concrete(path)}?{name}={value}")
                else:
                    yield Case(method, path, 400, concrete(path.replace(f"{{{name}}}", str(value))))


#: Asked of a worker that has counted, closed windows, and met a dead letter.
_OF_A_WORKER = [
    Case("GET", "/health/live", 200, headers={}),
    Case("GET", "/health/ready", 200, headers={}),
    Case("GET", "/metrics", 200),
    Case("GET", "/metrics", 200, headers=_BEARER | {"Accept": "application/openmetrics-text; version=1.0.0"}),
    *(
        Case("GET", path, 200)
        for path in (
            *("/feedback/partitions", "/feedback/overview", "/feedback/history", "/feedback/stream"),
            *("/feedback/agents", "/feedback/dead-letters", "/feedback/openapi.json"),
        )
    ),
    Case("GET", "/feedback/agents", 200, "/feedback/agents?order=negative&limit=1&minEvents=0"),
    Case("GET", "/feedback/agents/{agentId}", 200, "/feedback/agents/agent-1"),
    Case("GET", "/feedback/agents/{agentId}", 200, "/feedback/agents/nobody"),
    Case("GET", "/feedback/dead-letters", 200, "/feedback/dead-letters?limit=1&error=rating"),
    Case("GET", "/feedback/dead-letters/{partition}/{offset}", 200, "/feedback/dead-letters/{partition}/{offset}"),
    Case("GET", "/feedback/dead-letters/{partition}/{offset}", 404, "/feedback/dead-letters/0/123456789"),
    Case("GET", "/feedback/", 200),
    Case("GET", "/feedback", 308),
    Case("GET", "/feedback/static/{name}", 200, "/feedback/static/style.css"),
    Case("GET", "/feedback/static/{name}", 404, "/feedback/static/nothing.css"),
    *(
        Case("GET", path, 200, concrete(path), _BEARER | _HTML)
        for path in ("/feedback/agents/{agentId}", "/feedback/dead-letters")
    ),
    Case("POST", "/feedback/events", 202, headers=_BEARER | _JSON, body=event(agentId="agent-2")),
    Case("POST", "/feedback/events", 202, headers=_BEARER | _JSON, body=b"[%b, {}]" % event(agentId="agent-2")),
    Case("POST", "/feedback/events", 400, headers=_BEARER | _JSON, body=b"7"),
    Case("POST", "/feedback/events", 413, headers=_BEARER | _JSON, body=b" " * (MOST_BYTES + 1)),
    Case("POST", "/feedback/events", 415, body=b"{}", headers=_BEARER | _FORM),
    Case("POST", "/feedback/events", 422, headers=_BEARER | _JSON, body=b"{}"),
    Case("GET", "/feedback/login", 200, headers={}),
    Case("POST", "/feedback/login", 204, headers=_JSON, body=json.dumps({"token": _TOKEN}).encode()),
    Case("POST", "/feedback/login", 303, headers=_FORM, body=f"token={_TOKEN}".encode()),
    Case("POST", "/feedback/login", 400, headers=_JSON, body=b"{}"),
    Case("POST", "/feedback/login", 401, headers=_JSON, body=b'{"token": "wrong"}'),
    Case("POST", "/feedback/login", 401, headers=_FORM, body=b"token=wrong"),
    Case("POST", "/feedback/login", 403, headers=_JSON | _ELSEWHERE, body=b"{}"),
    Case("POST", "/feedback/login", 413, headers=_FORM, body=b"token=" + b"x" * 20_000),
    Case("POST", "/feedback/login", 415, headers={}, body=b"token"),
    *(Case("POST", "/feedback/login", 401, headers=_FORM, body=b"token=wrong") for _ in range(8)),
    Case("POST", "/feedback/login", 429, headers=_JSON, body=b'{"token": "wrong"}'),
    Case("POST", "/feedback/login", 429, headers=_FORM, body=b"token=wrong"),
    Case("POST", "/feedback/logout", 204, headers={}),
    Case("POST", "/feedback/logout", 303, headers=_HTML),
    Case("POST", "/feedback/logout", 403, headers=_ELSEWHERE),
    *without_login(),
    *wrong_parameters(),
]

#: Asked of an application that was never started, with neither broker nor database.
_OF_NO_WORKER = [
    Case("GET", "/health/live", 200, headers={}),
    Case("GET", "/health/ready", 503, headers={}),
    Case("GET", "/feedback/partitions", 200),
    Case("GET", "/feedback/agents/{agentId}", 503, "/feedback/agents/agent-1"),
    Case("GET", "/feedback/dead-letters", 503),
    Case("GET", "/feedback/dead-letters/{partition}/{offset}", 503, "/feedback/dead-letters/0/0"),
]

#: Brought about by tests below, each in its own way.
_OTHERWISE = {
    ("GET", "/health/live", 503),
    ("GET", "/feedback/agents/{agentId}", 502),
    ("POST", "/feedback/events", 403),
    ("POST", "/feedback/events", 408),
    ("POST", "/feedback/events", 429),
    ("POST", "/feedback/events", 503),
    ("POST", "/feedback/login", 408),
    ("GET", "/health/ready", 500),
}

#: What is the same for all paths (500), or can't be had from outside at will.
_NOT_ASKED_FOR = {
    *((method, path, 500) for method, path, _ in _API.operations() if path != "/health/ready"),
    *(("GET", path, 503) for path in ("/feedback/overview", "/feedback/history", "/feedback/stream")),
    ("GET", "/feedback/agents", 503),  # the database goes while there are windows
    *(("GET", path, 304) for path in ("/feedback/", "/feedback/static/{name}")),  # by a version that changes
}


@pytest.fixture
def app(offline: MakeSettings) -> FeedbackApp:
    """An application that is never started."""
    return create_app(offline(web_token=_TOKEN))


@pytest_asyncio.fixture
async def client(app: FeedbackApp, serve: Callable[..., Any]) -> AsyncIterator[Client]:
    yield await serve(app)
    await app.ingest.close()


def routes(router: UrlDispatcher) -> set[tuple[str, str]]:
    """Return the paths that are answered, by method, less HEAD, and less the names of their parameters."""
    return {
        (route.method, nameless(route.resource.canonical))
        for route in router.routes()
        if route.method not in {"HEAD", "OPTIONS"} and route.resource is not None
    }


def nameless(path: str) -> str:
    return re.sub(r"{.*?}", "{}", path)


async def test_every_page_is_in_the_document(client: Client) -> None:
    stock: Any = faust.App("stock", broker="kafka://127.0.0.1:1", autodiscover=False).web
    stock.init_server()
    documented = {(method, nameless(path)) for method, path, _ in _API.operations()}
    assert client.app is not None
    ours = routes(client.app.router) - routes(stock.web_app.router)
    assert len(ours) >= 10
    assert ours - documented == set()
    assert documented - ours == set()


def test_every_answer_in_the_document_is_asked_for() -> None:
    asked_for = {case.answer for case in (*_OF_A_WORKER, *_OF_NO_WORKER)} | _OTHERWISE
    assert _API.answers() - asked_for - _NOT_ASKED_FOR == set()
    assert (asked_for | _NOT_ASKED_FOR) - _API.answers() == set()


async def test_what_a_worker_answers(embedded_broker: str, settings: MakeSettings, start_worker: StartWorker) -> None:
    ours = settings(embedded_broker, web_token=_TOKEN, **SHORT_WINDOWS)
    worker = await asyncio.to_thread(start_worker, ours)
    letter = await asyncio.to_thread(make_history, ours, worker)
    for case in _OF_A_WORKER:
        await check(worker.url, case, letter)


async def test_what_is_answered_where_everything_is_away(client: Client) -> None:
    for case in _OF_NO_WORKER:
        await check(str(client.make_url("")).rstrip("/"), case, {})


async def test_the_document_is_served(client: Client) -> None:
    async with client.get("/feedback/openapi.json", headers=_BEARER) as answer:
        assert (answer.status, await answer.json()) == (200, _API.content)


async def test_what_is_answered_where_a_part_has_died(
    app: FeedbackApp, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> str:
        raise RuntimeError

    monkeypatch.setattr(app.liveness, "reasons", lambda: ["a part has died"])
    monkeypatch.setattr(app.windows, "not_ready", fail)
    metadata = {"http://127.0.0.1:1": {app.windows.changelog: list(range(8))}}
    monkeypatch.setattr(app.assignor, "tables_metadata", lambda: metadata)
    for case in (
        Case("GET", "/health/live", 503),
        Case("GET", "/health/ready", 500),
        Case("GET", "/feedback/agents/{agentId}", 502, "/feedback/agents/agent-1"),
    ):
        await check(str(client.make_url("")).rstrip("/"), case, {})


async def test_what_is_answered_to_events_that_are_not_taken(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    url = str(client.make_url("")).rstrip("/")
    headers = _BEARER | _JSON
    monkeypatch.setattr("feedback_app.web.events._ANSWER_S", 0.1)
    await check(url, Case("POST", "/feedback/events", 503, headers=headers, body=event()), {})  # not acknowledged
    monkeypatch.setattr("feedback_app.web.events._MOST_READING", 0)
    await check(url, Case("POST", "/feedback/events", 429, headers=headers, body=event()), {})
    async with client.post("/feedback/login", json={"token": _TOKEN}) as answer:
        cookie = f"feedback_session={answer.cookies['feedback_session'].value}"
    elsewhere = {"Cookie": cookie, "Origin": "http://elsewhere"}
    await check(url, Case("POST", "/feedback/events", 403, headers=_JSON | elsewhere, body=event()), {})


@pytest.mark.parametrize("path", ["/feedback/events", "/feedback/login"])
async def test_what_is_answered_to_a_body_that_does_not_come(
    client: Client, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    for module in ("events", "login"):
        monkeypatch.setattr(f"feedback_app.web.{module}._READ_S", 0.1)
    ended = asyncio.Event()

    async def never() -> AsyncIterator[bytes]:
        yield b"{"
        await ended.wait()

    async with client.post(path, data=never(), headers=_BEARER | _JSON) as answer:
        body = await answer.read()
        ended.set()
    assert answer.status == 408
    _API.check("POST", path, 408, answer.headers, body)


async def check(url: str, case: Case, letter: Mapping[str, int]) -> None:
    """Send a request, and hold its answer to the document."""
    target = url + re.sub(r"{(\w+)}", lambda match: str(letter[match[1]]), case.target)
    sent = None if case.body is None else io.BytesIO(case.body)  # aiohttp warns of large bytes
    async with (
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
        session.request(case.method, target, headers=case.headers, data=sent, allow_redirects=False) as answer,
    ):
        if answer.content_type == "text/event-stream":
            await check_event(answer)
            return
        body = await answer.read()
    assert answer.status == case.status, (str(case), body[:300])
    _API.check(case.method, case.path, case.status, answer.headers, body)


async def check_event(answer: aiohttp.ClientResponse) -> None:
    """Hold the first event of a stream to the document."""
    async for line in answer.content:
        if line.startswith(b"data: "):
            _API.validate({"$ref": "#/components/schemas/Overview"}, json.loads(line.removeprefix(b"data: ")))
            return
    pytest.fail("the stream has ended")


def make_history(settings: Settings, worker: WorkerProcess) -> dict[str, int]:
    """Let a worker close a window, have one open, and meet a dead letter; return where that stands.

    The last event lies in the future: it closes the windows of those before it, and its own stays open meanwhile.
    """
    now_ms = time.time_ns() // 1_000_000
    with FeedbackPublisher(settings) as publisher:
        for timestamp in (now_ms - 10_000, now_ms, now_ms + 120_000):
            publisher.publish(_EVENT | {"timestamp": timestamp})
        publisher.publish_bytes(b"agent-1", b'{"rating": "none"}')
    topics = Topics.of(settings)
    with open_database(settings) as database, TopicReader(settings) as reader:
        until(lambda: database["feedback_windows"].count_documents({}) > 0)
        until(lambda: any(range_.first < range_.end for range_ in reader.ranges(topics.dead_letter).values()))
        ranges = reader.ranges(topics.dead_letter)
    status, agent = worker.get("/feedback/agents/agent-1", **_BEARER)
    assert (status, len(agent["open"])) == (200, 1)
    return next(
        {"partition": number, "offset": range_.first} for number, range_ in ranges.items() if range_.first < range_.end
    )
