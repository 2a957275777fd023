"""``/feedback/dead-letters`` on a real Kafka: letters as a worker writes them, with whatever a client may have sent."""

from __future__ import annotations

import asyncio
import logging
import time
from base64 import b64decode
from collections.abc import Callable
from typing import Any

import orjson
import pytest
from aiohttp import ClientResponse, web
from aiohttp.test_utils import TestClient
from confluent_kafka import Producer

from feedback_app.admin import Admin
from feedback_app.connections import librdkafka_config
from feedback_app.deadletters.topic import LetterRecords
from feedback_app.embedded.worker import WorkerProcess
from feedback_app.errors import BrokerError
from feedback_app.factory import create_app
from feedback_app.provisioning import ensure_topics
from feedback_app.settings import Settings
from feedback_app.topics import MAX_INPUT_BYTES, MAX_SIDE_BYTES, Topics
from tests.contract.test_dead_letters import NOW, event, ready, set_aside
from tests.functional.test_worker import closed
from tests.services.kafka import ApacheKafka
from tests.services.workers import SHORT_WINDOWS, StartWorker

Client = TestClient[web.Request, web.Application]

_PARTITIONS = 3
_HOSTILE = [
    b"<script>alert(1)</script>",
    b"\x00\xff\xfe\x00",
    b"",
    None,
    b"\xed\xa0\x80 half a character",
    "\u202e\u2028\x1b[31m".encode(),
    b'{"a": "' + b'"}' * 500,
]


@pytest.fixture
def ours(kafka: str, settings: Callable[..., Settings]) -> Settings:
    made = settings(kafka, mongodb_url="mongodb://127.0.0.1:1", partitions=_PARTITIONS)
    ensure_topics(made, Topics.of(made).specs())
    return made


@pytest.fixture(autouse=True)
def reasons(caplog: pytest.LogCaptureFixture) -> None:
    """Why a page is refused is in the log alone: show it where a test fails."""
    caplog.set_level(logging.INFO, "feedback_app.web.letters")


@pytest.fixture
async def client(ours: Settings, serve: Callable[..., Any]) -> Client:
    served: Client = await serve(create_app(ours))
    return served


async def get(client: Client, path: str, status: int = 200) -> Any:
    async with client.get(f"/feedback/dead-letters{path}") as answer:
        return await checked(answer, status)


async def checked(answer: ClientResponse, status: int) -> Any:
    body = await answer.read()
    assert answer.status == status, body
    assert answer.content_type == "application/json"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    return orjson.loads(body)


async def patiently(client: Client, path: str) -> Any:
    """Get a page as one is told to: what is 503 is asked for again. A busy broker takes its time with megabytes."""
    deadline = time.monotonic() + 30
    while True:
        async with client.get(f"/feedback/dead-letters{path}") as answer:
            if answer.status != 503:
                return await checked(answer, 200)
        assert time.monotonic() < deadline
        await asyncio.sleep(0.2)


async def all_pages(client: Client, query: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    before = ""
    while True:
        body = await patiently(client, f"?{query}{before}")
        found += body["letters"]
        if body["next"] is None:
            return found
        before = f"&before={body['next']}"


async def test_whatever_a_letter_holds_it_is_shown_as_data(ours: Settings, client: Client) -> None:
    set_aside(ours, *_HOSTILE, error="Invalid JSON: <b>why</b>")
    letters = {
        (letter["partition"], letter["offset"]): letter for letter in (await get(client, "?limit=100"))["letters"]
    }
    assert len(letters) == len(_HOSTILE)
    for number, value in enumerate(_HOSTILE):
        place = number % _PARTITIONS, number // _PARTITIONS
        letter = letters[place]
        assert (letter["error"], letter["detail"]) == ("Invalid JSON", "<b>why</b>")
        assert letter["size"] == len(value or b"")
        assert letter["preview"] == (value or b"")[:200].decode(errors="replace")
        assert letter["source"] == {"topic": Topics.of(ours).feedback, "partition": place[0], "offset": number}
        assert letter["time"].endswith("Z")
        whole = await get(client, f"/{place[0]}/{place[1]}")
        assert b64decode(whole["base64"]) == (value or b"")
        assert whole["text"] == (value or b"").decode(errors="replace")
        assert b64decode(whole["keyBase64"]) == b"key"
        assert whole["headers"]["trace"] == "t"
        assert whole.keys() - letter.keys() == {"headers", "text", "base64", "keyBase64"}
        assert letter.keys() - whole.keys() == {"preview"}
        assert {name: whole[name] for name in letter if name != "preview"} == {
            name: letter[name] for name in letter if name != "preview"
        }


async def test_headers_that_can_t_be_read_and_a_megabyte(ours: Settings, client: Client) -> None:
    topic = Topics.of(ours).dead_letter
    producer = Producer(librdkafka_config(ours) | {"message.max.bytes": 2 * MAX_SIDE_BYTES})
    large = b"\x00<" * (MAX_INPUT_BYTES // 2)
    for _ in range(20):
        producer.produce(topic, large, partition=0)
    producer.produce(topic, b"strange", partition=1, headers=[("feedback-error", b"\xff: \xfe")])
    assert producer.flush(30) == 0
    began = time.monotonic()
    found = await all_pages(client, "limit=50")
    assert time.monotonic() - began < 30
    assert [letter["size"] for letter in found if letter["partition"] == 0] == [len(large)] * 20
    assert [(letter["error"], letter["detail"]) for letter in found if letter["partition"] == 1] == [
        ("\ufffd", "\ufffd")
    ]
    whole = await get(client, "/0/7")
    assert b64decode(whole["base64"]) == large
    assert (whole["error"], whole["source"], whole["headers"]) == ("", None, {})


async def test_pages_filters_and_what_is_not_there(ours: Settings, client: Client) -> None:
    set_aside(ours, *(event(number) for number in range(40)), error="score: too much")
    set_aside(ours, *(event(number) for number in range(40, 50)), error="rating: wrong")
    everything = await all_pages(client, "limit=200")
    names = [(letter["partition"], letter["offset"]) for letter in everything]
    assert len(set(names)) == 50
    assert await all_pages(client, "limit=7") == everything
    for partition in range(_PARTITIONS):
        offsets = [offset for number, offset in names if number == partition]
        assert offsets == sorted(offsets, reverse=True)
    assert {letter["error"] for letter in everything[:10]} == {"rating"}
    of_one = await all_pages(client, "limit=4&error=rating")
    assert of_one == everything[:10]
    assert await all_pages(client, "error=scor") == []

    for place in ("0/1000", "3/0", f"0/{(1 << 63) - 1}"):
        assert await get(client, f"/{place}", 404) == {"error": "there is no such letter"}
    for path in ("/0/x", "/-1/0", f"/0/{1 << 63}", "?before=0-1.0-2", "?limit=0"):
        assert "error" in await get(client, path, 400)


async def test_what_is_not_committed_is_not_shown_and_replays_are(ours: Settings, client: Client) -> None:
    set_aside(ours, event(0), event(1), event(2))
    held = set_aside(ours, event(9), transactional_id=f"{ours.app_id}-held")
    seen = await all_pages(client, "limit=50")
    assert [letter["replayed"] for letter in seen] == [False] * 3
    assert await get(client, "/0/1", 404)
    held.abort_transaction()

    producer, letters = ready(ours)
    assert len(letters) == 3
    producer.replay(letters[:2])
    producer.stop()
    replayed = {letter.letter.id for letter in letters[:2]}
    # The broker tells that a transaction is committed before it shows it.
    deadline = time.monotonic() + 30
    for limit in range(51, 201):  # an answer is kept for a second, that to another question is not
        again = await all_pages(client, f"limit={limit}")
        assert len(again) == 3
        if {(each["partition"], each["offset"]) for each in again if each["replayed"]} == replayed:
            break
        assert time.monotonic() < deadline
    else:
        pytest.fail("the replay was not told")
    whole = await get(client, "/{}/{}".format(*letters[0].letter.id))
    assert whole["replayed"] is True
    # Marks, markers and what was aborted are no letters.
    for offset in range(1, 6):
        assert await get(client, f"/0/{offset}", 404)


async def test_what_expired_is_gone(ours: Settings, client: Client) -> None:
    set_aside(ours, *(event(number) for number in range(30)))
    Admin(ours).delete_below(Topics.of(ours).dead_letter, {0: 4})
    found = await all_pages(client, "limit=8")
    assert min(letter["offset"] for letter in found if letter["partition"] == 0) == 4
    assert len(found) == 26
    assert await get(client, "/0/3", 404)


async def test_a_broker_that_goes_away_and_comes_back(
    own_kafka: ApacheKafka, settings: Callable[..., Settings], serve: Callable[..., Any]
) -> None:
    ours = settings(own_kafka.url, mongodb_url="mongodb://127.0.0.1:1", partitions=_PARTITIONS)
    ensure_topics(ours, Topics.of(ours).specs())
    set_aside(ours, event(0))
    client = await serve(create_app(ours))
    assert len(await all_pages(client, "limit=50")) == 1
    own_kafka.kill()
    began = time.monotonic()
    assert await get(client, "?limit=51", 503) == {"error": "the broker does not send dead letters; is it up?"}
    assert time.monotonic() - began < 8
    own_kafka.start()
    deadline = time.monotonic() + 60
    while True:
        async with client.get("/feedback/dead-letters?limit=52") as answer:
            if answer.status == 200:
                assert len((await answer.json())["letters"]) == 1
                break
        assert time.monotonic() < deadline


def test_a_worker_s_own_letters(kafka: str, settings: Callable[..., Settings], start_worker: StartWorker) -> None:
    ours = settings(kafka, **SHORT_WINDOWS)
    worker: WorkerProcess = start_worker(ours)
    producer = Producer(librdkafka_config(ours))
    sent = {"Invalid JSON": b"{", "empty": b"", "score": event(1), "rating": event(2, rating="good", score=1)}
    for number, value in enumerate(sent.values()):
        producer.produce(Topics.of(ours).feedback, value, partition=number % ours.partitions)
    assert producer.flush(20) == 0
    assert closed(ours).dead_lettered == len(sent)
    status, body = worker.get("/feedback/dead-letters")
    assert status == 200
    assert {letter["error"] for letter in body["letters"]} == set(sent)
    assert {letter["source"]["topic"] for letter in body["letters"]} == {Topics.of(ours).feedback}
    assert abs(NOW / 1_000 - time.time()) < 3_600


def test_a_topic_that_is_not_there_is_told(kafka: str, settings: Callable[..., Settings]) -> None:
    with pytest.raises(BrokerError):
        LetterRecords(settings(kafka, mongodb_url="mongodb://127.0.0.1:1"))
