"""``POST /feedback/events``: what is taken and what is not, in words that quote nothing; limits; no 202 too early."""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, cast

import orjson
import pytest
import pytest_asyncio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from feedback_app.application import FeedbackApp
from feedback_app.errors import PublishError, QueueFull
from feedback_app.factory import create_app
from feedback_app.liveness import Liveness
from feedback_app.provisioning import ensure_topics
from feedback_app.publisher import FeedbackPublisher
from feedback_app.settings import Settings
from feedback_app.topics import Topics
from feedback_app.verification.reading import TopicReader
from feedback_app.web import events as page
from feedback_app.web.events import MOST_BYTES, MOST_EVENTS, Ingest

MakeSettings = Callable[..., Settings]
Client = TestClient[web.Request, web.Application]

_TOKEN = "open-sesame"
_ALLOWED = {"Authorization": f"Bearer {_TOKEN}"}
_JSON = {"Content-Type": "application/json"}
_PATH = "/feedback/events"
_WRITTEN = "<b>what a user wrote</b>"


def event(number: int = 0, **fields: Any) -> dict[str, Any]:
    return {
        "feedbackId": f"f-{number}",
        "agentId": f"agent-{number % 5}",
        "userId": "u-1",
        "rating": "positive",
        "timestamp": "2026-11-24T12:00:00Z",
    } | fields


class FakePublisher:
    """Takes everything, and answers when a test says so."""

    def __init__(self) -> None:
        self.offered: list[list[tuple[bytes, bytes]]] = []
        self.outcomes: list[Future[list[str]]] = []
        self.error: PublishError | None = None
        self.works = True
        self.closed = False

    def offer(self, records: Sequence[tuple[bytes, bytes]]) -> Future[list[str]]:
        if self.error is not None:
            raise self.error
        self.offered.append(list(records))
        self.outcomes.append(Future())
        return self.outcomes[-1]

    def close(self, timeout: float) -> None:
        self.closed = True
        for outcome in self.outcomes:
            if not outcome.done():
                outcome.set_result(["purged"])


@pytest_asyncio.fixture
async def serve() -> AsyncIterator[Callable[..., Any]]:
    """Return ``await serve(settings, publisher)``: a client of a worker's pages; the publisher is the real one when
    none is given."""
    clients: list[Client] = []
    apps: list[FeedbackApp] = []

    async def start(settings: Settings, publisher: Any = None) -> Client:
        app = create_app(settings)
        if publisher is not None:
            made = publisher if callable(publisher) else lambda: publisher
            cast(Any, app.ingest)._make = made
        apps.append(app)
        driver: Any = app.web  # aiohttp's, whatever Faust declares
        driver.init_server()
        clients.append(TestClient(TestServer(driver.web_app)))
        await clients[-1].start_server()
        cast(Any, clients[-1]).ingest = app.ingest
        return clients[-1]

    yield start
    for app in apps:
        await app.ingest.close()
    for client in clients:
        await client.close()
    for app in apps:
        await app._maybe_close_http_client()
        await app.sink.close()


@pytest.fixture
def offline(settings: MakeSettings) -> Callable[..., Settings]:
    """Return ``offline(**overrides)``: settings for an application that is never started."""
    return lambda **overrides: settings("kafka://127.0.0.1:1", mongodb_url="mongodb://127.0.0.1:1", **overrides)


@pytest.fixture
def online(embedded_broker: str, settings: MakeSettings) -> Settings:
    ours = settings(embedded_broker, mongodb_url="mongodb://127.0.0.1:1", partitions=3, web_token=_TOKEN)
    ensure_topics(ours, Topics.of(ours).specs())
    return ours


async def post(client: Client, body: object, **headers: str) -> tuple[int, dict[str, Any], Any]:
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    async with client.post(_PATH, data=io.BytesIO(data), headers=_JSON | _ALLOWED | headers) as answer:
        assert answer.content_type == "application/json"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        text = await answer.text()
        assert _WRITTEN not in text
        return answer.status, orjson.loads(text), answer.headers


def arrived(settings: Settings) -> list[dict[str, Any]]:
    with TopicReader(settings) as reader:
        return [
            orjson.loads(message.value() or b"")
            for _, messages in reader.read(Topics.of(settings).feedback, {}, {})
            for message in messages
        ]


# -- what is taken ---------------------------------------------------------------------------------------------------


async def test_what_was_answered_202_is_on_the_topic_and_what_was_rejected_is_not(
    online: Settings, serve: Callable[..., Any]
) -> None:
    client = await serve(online)
    assert (await post(client, event(1, comment="Zoë ☃", unknown=1)))[:2] == (202, {"accepted": 1, "rejected": []})
    mixed = [
        event(2),
        event(3, rating=_WRITTEN),
        {_WRITTEN: 1},
        7,
        event(4, timestamp=1_700_000_000_000),
        event(5, agentId=_WRITTEN * 20),
    ]
    status, body, _ = await post(client, mixed)
    assert (status, body["accepted"]) == (202, 2)
    assert [(item["index"], item["error"].partition(":")[0]) for item in body["rejected"]] == [
        (1, "rating"),
        (2, "feedbackId"),
        (3, "Input should be a valid dictionary"),
        (5, "agentId"),
    ]
    found = sorted(arrived(online), key=lambda each: str(each["feedbackId"]))
    assert [each["feedbackId"] for each in found] == ["f-1", "f-2", "f-4"]
    assert found[0] == event(1, comment="Zoë ☃", timestamp=1795521600000)


async def test_many_clients_at_once_lose_nothing_and_get_nothing_doubled(
    online: Settings, serve: Callable[..., Any]
) -> None:
    client = await serve(online)
    bodies = [[event(number) for number in range(start, start + 100)] for start in range(0, 1_000, 100)]
    answers = await asyncio.gather(*(post(client, body) for body in bodies))
    assert [(status, body["accepted"]) for status, body, _ in answers] == [(202, 100)] * 10
    assert sorted(each["feedbackId"] for each in arrived(online)) == sorted(f"f-{number}" for number in range(1_000))


async def test_the_timestamp_is_not_made_up(offline: MakeSettings, serve: Callable[..., Any]) -> None:
    publisher = FakePublisher()
    client = await serve(offline(), publisher)
    undated = event()
    del undated["timestamp"]
    status, body, _ = await post(client, undated)
    assert (status, body["accepted"]) == (422, 0)
    assert body["rejected"] == [{"index": 0, "error": "timestamp: Field required"}]
    assert publisher.offered == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"nothing",
        b"[]",
        b"7",
        b'"text"',
        b"null",
        b"[{},",
        b'{"a": 1} {"b": 2}',
        b"[NaN]",
        b'{"a": "\xff"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" + b"{}," * MOST_EVENTS + b"{}]",
        orjson.dumps({"events": []})[:-1],
    ],
)
async def test_what_is_no_event_and_no_list_of_them(
    offline: MakeSettings, serve: Callable[..., Any], body: bytes
) -> None:
    publisher = FakePublisher()
    client = await serve(offline(), publisher)
    assert (await post(client, body))[:2] == (400, {"error": page._PROBLEM_BODY})
    assert publisher.offered == []


async def test_as_many_events_as_allowed(online: Settings, serve: Callable[..., Any]) -> None:
    client = await serve(online)
    status, body, _ = await post(client, [event(number) for number in range(MOST_EVENTS)])
    assert (status, body["accepted"]) == (202, MOST_EVENTS)


# -- limits ----------------------------------------------------------------------------------------------------------


async def test_without_the_token_nothing_is_taken(online: Settings, serve: Callable[..., Any]) -> None:
    publisher = FakePublisher()
    client = await serve(online, publisher)
    for token in ("", f"Bearer not-{_TOKEN}"):
        assert (await post(client, event(), Authorization=token))[0] == 401
    assert publisher.offered == []


@pytest.mark.parametrize("headers", [{"Content-Type": "text/plain"}, {"Content-Encoding": "identity"}])
async def test_only_plain_json_is_read(
    offline: MakeSettings, serve: Callable[..., Any], headers: dict[str, str]
) -> None:
    """A page in a browser may send text to any address without asking, but no JSON."""
    publisher = FakePublisher()
    client = await serve(offline(), publisher)
    assert (await post(client, event(), **headers))[0] == 415
    assert publisher.offered == []


@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_that_is_too_large_is_not_read_to_its_end(
    offline: MakeSettings, serve: Callable[..., Any], announced: bool
) -> None:
    client = await serve(offline(), FakePublisher())
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 200 * MOST_BYTES:
            yield b" " * 65_536
            sent += 65_536

    if announced:
        assert (await post(client, b" " * (MOST_BYTES + 1)))[0] == 413
        return
    with suppress(ConnectionError):  # the worker may hang up, having said why
        async with client.post(_PATH, data=endless(), headers=_JSON) as answer:
            assert answer.status == 413
    assert sent < 100 * MOST_BYTES


async def test_a_body_of_the_largest_size_is_read(offline: MakeSettings, serve: Callable[..., Any]) -> None:
    client = await serve(offline(), FakePublisher())
    assert (await post(client, b" " * (MOST_BYTES - 2) + b"{}"))[0] == 422


async def test_a_body_that_does_not_come_is_not_waited_for(
    offline: MakeSettings, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "_READ_S", 0.2)
    client = await serve(offline(), FakePublisher())
    reader, writer = await unfinished(client)
    assert b" 408 " in await reader.readline()
    writer.close()


async def test_few_bodies_are_read_at_once(
    offline: MakeSettings, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "_MOST_READING", 2)
    client = await serve(offline(), FakePublisher())
    open_ones = [await unfinished(client) for _ in range(2)]
    await until(lambda: ingest_of(client)._reading == 2)
    status, body, headers = await post(client, event())
    assert (status, body["error"], headers["Retry-After"]) == (429, page._PROBLEM_BUSY, "1")
    for _, writer in open_ones:
        writer.close()
    await until(lambda: ingest_of(client)._reading == 0)
    assert (await post(client, {}))[0] == 422


async def test_a_full_queue_is_told_at_once_and_nothing_of_the_request_is_sent(
    offline: MakeSettings, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker is away; the event loop goes on all the same."""
    monkeypatch.setattr("feedback_app.publisher._OFFERED_EVENTS", 25)
    ours = offline()
    client = await serve(ours, lambda: FeedbackPublisher(ours, delivery_timeout_s=1.5, confirms=True))
    waiting = [asyncio.create_task(post(client, [event(number) for number in range(10)])) for _ in range(2)]
    await until(lambda: ingest_of(client)._publisher and ingest_of(client)._publisher._offered_events == 20)
    began = time.monotonic()
    status, body, headers = await post(client, [event(number) for number in range(6)])
    assert time.monotonic() - began < 0.5
    assert (status, body["error"], headers["Retry-After"]) == (429, page._PROBLEM_FULL, "1")
    assert ingest_of(client)._publisher._offered_events == 20
    assert [status for status, _, _ in await asyncio.gather(*waiting)] == [503, 503]
    # What was given up makes room.
    again = asyncio.create_task(post(client, [event(number) for number in range(25)]))
    await until(lambda: ingest_of(client)._publisher._offered_events == 25)
    assert (await again)[0] == 503


# -- the broker's answer ---------------------------------------------------------------------------------------------


async def test_there_is_no_202_before_the_broker_has_every_event(
    offline: MakeSettings, serve: Callable[..., Any]
) -> None:
    publisher = FakePublisher()
    client = await serve(offline(), publisher)
    answer = asyncio.create_task(post(client, [event(0), {}, event(1), event(2)]))
    await until(lambda: publisher.offered)
    assert [key for key, _ in publisher.offered[0]] == [b"agent-0", b"agent-1", b"agent-2"]
    await asyncio.wait({answer}, timeout=0.3)
    assert not answer.done()
    publisher.outcomes[0].set_result(["", "Local: Message timed out", ""])
    status, body, headers = await answer
    assert (status, headers["Retry-After"]) == (503, "5")
    assert (body["accepted"], body["unacknowledged"], body["rejected"][0]["index"]) == (2, [2], 1)
    assert "1 of 3 events" in body["error"]
    assert "same feedbackIds" in body["error"]


async def test_a_broker_that_does_not_answer_is_not_waited_for_beyond_the_deadline(
    offline: MakeSettings, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "_ANSWER_S", 0.3)
    client = await serve(offline(), FakePublisher())
    status, body, _ = await post(client, [event(0), event(1)])
    assert (status, body["accepted"], body["unacknowledged"]) == (503, 0, [0, 1])
    assert "may have arrived or still arrive" in body["error"]


async def test_without_a_broker_the_answer_is_503(offline: MakeSettings, serve: Callable[..., Any]) -> None:
    ours = offline()
    client = await serve(ours, lambda: FeedbackPublisher(ours, delivery_timeout_s=0.5, confirms=True))
    status, body, _ = await post(client, event())
    assert (status, body["accepted"], body["unacknowledged"]) == (503, 0, [0])


async def test_a_publisher_that_can_not_go_on_is_replaced(offline: MakeSettings, serve: Callable[..., Any]) -> None:
    publishers: list[FakePublisher] = []

    def make() -> FakePublisher:
        publishers.append(FakePublisher())
        if len(publishers) == 1:
            publishers[0].error = PublishError(f"not sent: {_WRITTEN}")
        return publishers[-1]

    client = await serve(offline(), make)
    assert (await post(client, event()))[:2] == (503, {"error": page._PROBLEM_BROKER})
    answer = asyncio.create_task(post(client, event()))
    await until(lambda: len(publishers) == 2 and publishers[1].offered)
    publishers[1].outcomes[0].set_result([""])
    assert (await answer)[0] == 202
    await until(lambda: publishers[0].closed)


async def test_the_queue_of_a_publisher_that_is_full_does_not_cost_it_its_place(
    offline: MakeSettings, serve: Callable[..., Any]
) -> None:
    publisher = FakePublisher()
    publisher.error = QueueFull()
    client = await serve(offline(), publisher)
    assert (await post(client, event()))[0] == 429
    assert not publisher.closed


# -- the end ---------------------------------------------------------------------------------------------------------


async def test_closing_answers_all_requests_that_wait_for_the_broker_or_for_their_body(
    offline: MakeSettings, serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "_STOP_S", 0.3)
    publisher = FakePublisher()
    client = await serve(offline(), publisher)
    waiting = asyncio.create_task(post(client, event()))
    reader, writer = await unfinished(client)
    await until(lambda: publisher.offered and ingest_of(client)._reading == 1)
    closing = asyncio.create_task(ingest_of(client).close())
    await until(lambda: ingest_of(client)._stopping)
    assert (await post(client, event()))[:2] == (503, {"error": page._PROBLEM_STOPPING})
    async with asyncio.timeout(3):  # neither the broker's deadline nor that of the body
        await closing
        assert (await waiting)[0] == 503
        assert b" 503 " in await reader.readline()
    writer.close()
    assert publisher.closed


async def test_closing_lets_the_broker_answer_first(offline: MakeSettings, serve: Callable[..., Any]) -> None:
    publisher = FakePublisher()
    client = await serve(offline(), publisher)
    waiting = asyncio.create_task(post(client, event()))
    await until(lambda: publisher.offered)
    closing = asyncio.create_task(ingest_of(client).close())
    await until(lambda: ingest_of(client)._stopping)
    publisher.outcomes[0].set_result([""])
    assert (await waiting)[0] == 202
    await closing
    assert publisher.closed


async def test_a_publisher_whose_thread_has_ended_is_a_sign(offline: MakeSettings, serve: Callable[..., Any]) -> None:
    publisher = FakePublisher()
    client = await serve(offline(), publisher)
    assert ingest_of(client).signs() == []
    answer = asyncio.create_task(post(client, event()))
    await until(lambda: publisher.offered)
    assert ingest_of(client).signs() == []
    publisher.works = False
    assert ingest_of(client).signs() == ["the publisher's thread has ended"]
    publisher.outcomes[0].set_result([""])
    await answer


async def test_one_that_was_never_used_closes(offline: MakeSettings) -> None:
    await Ingest(offline(), Liveness()).close()


def ingest_of(client: Client) -> Any:
    return cast(Any, client).ingest


async def unfinished(client: Client) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Begin a request whose body does not come."""
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(
        f"POST {_PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n[".encode()
    )
    await writer.drain()
    return reader, writer


async def until(what: Callable[[], object], seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not what():  # noqa: ASYNC110  # whatever it is, it sets no event
            await asyncio.sleep(0.01)
