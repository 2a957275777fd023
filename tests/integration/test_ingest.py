"""``POST /feedback/events`` on a worker whose broker is killed: nothing that was answered 202 is lost."""

from __future__ import annotations

import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http import HTTPStatus
from itertools import count
from typing import Any

import orjson

from feedback_app.embedded.worker import WorkerProcess
from feedback_app.settings import Settings
from feedback_app.topics import Topics
from feedback_app.verification.reading import TopicReader
from tests.services.kafka import ApacheKafka
from tests.services.workers import StartWorker, terminate, until

MakeSettings = Callable[..., Settings]

_TOKEN = "open-sesame"
_SETTINGS = {"partitions": 2, "store_items": False, "web_token": _TOKEN}
_CLIENTS = 4
_EVENTS = 20


def test_nothing_that_was_answered_202_is_lost_when_the_broker_is_killed(
    own_kafka: ApacheKafka, settings: MakeSettings, start_worker: StartWorker
) -> None:
    """Clients send all the time; the broker is killed in the middle, and comes back.

    broker   up ----------- killed ............ up ----
    answers  202 202 202 202   503   503 (429)   202
    """
    ours = settings(own_kafka.url, **_SETTINGS)
    worker = start_worker(ours)
    stop, numbers, lock = threading.Event(), count(), threading.Lock()
    answers: dict[int, int] = {}
    accepted: set[str] = set()

    def send() -> None:
        while not stop.is_set():
            with lock:
                ids = [f"f-{next(numbers)}" for _ in range(_EVENTS)]
            status, body = post(worker, [event(feedback_id) for feedback_id in ids])
            with lock:
                answers[status] = answers.get(status, 0) + 1
                if status in {HTTPStatus.ACCEPTED, HTTPStatus.SERVICE_UNAVAILABLE} and "accepted" in body:
                    missing = {ids[index] for index in body.get("unacknowledged", ())}
                    assert body["accepted"] == len(ids) - len(missing)
                    accepted.update(set(ids) - missing)

    with ThreadPoolExecutor(_CLIENTS) as clients:
        sending = [clients.submit(send) for _ in range(_CLIENTS)]
        try:
            until(lambda: answers.get(202, 0) > 50)
            own_kafka.kill()
            until(lambda: answers.get(503, 0) >= _CLIENTS)
            assert worker.get("/health/live") == (200, {"status": "live"})
            before = answers[202]
            own_kafka.start()
            until(lambda: answers[202] > before + 50)
        finally:
            stop.set()
        for each in sending:
            each.result(30)
    assert set(answers) <= {202, 429, 503}
    there = ids_on_the_topic(ours)
    print(f"{answers}; {len(accepted)} events acknowledged, {len(there)} on the topic")
    assert accepted <= there


def test_a_worker_with_requests_that_wait_for_a_broker_that_is_away_stops_in_time(
    own_kafka: ApacheKafka, settings: MakeSettings, start_worker: StartWorker
) -> None:
    ours = settings(own_kafka.url, **_SETTINGS)
    worker = start_worker(ours)
    assert post(worker, event("f-0"))[0] == 202
    own_kafka.kill()
    body = orjson.dumps(event("f-1"))
    with begun(worker, len(body)) as complete, begun(worker, 100) as incomplete, begun(worker, 1 << 30) as too_large:
        complete.sendall(body)
        incomplete.sendall(b"[")
        assert b" 413 " in too_large.recv(10_000)
        assert worker.get("/health/live")[0] == 200  # by now the body has been read
        assert terminate(worker) == 0
        answers = [connection.recv(10_000) for connection in (complete, incomplete)]
    assert [b" 503 " in answer.partition(b"\r\n")[0] for answer in answers] == [True, True]
    assert b"may have arrived or still arrive" in answers[0]
    assert b"nothing was sent" in answers[1]


@contextmanager
def begun(worker: WorkerProcess, length: int) -> Iterator[socket.socket]:
    """Begin a request, and return once the worker waits for its body."""
    with socket.create_connection(("127.0.0.1", worker.port), timeout=15) as connection:
        headers = f"Host: x\r\nAuthorization: Bearer {_TOKEN}\r\nContent-Type: application/json"
        head = f"POST /feedback/events HTTP/1.1\r\n{headers}\r\nContent-Length: {length}\r\n"
        connection.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        answer = b""
        while b"100 Continue\r\n\r\n" not in answer:
            answer += connection.recv(1)
        yield connection


def event(feedback_id: str) -> dict[str, Any]:
    return {
        "feedbackId": feedback_id,
        "agentId": f"agent-{feedback_id}",
        "userId": "user",
        "rating": "neutral",
        "timestamp": time.time_ns() // 1_000_000,
    }


def post(worker: WorkerProcess, body: object) -> tuple[int, Any]:
    headers = {"Authorization": f"Bearer {_TOKEN}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{worker.url}/feedback/events", orjson.dumps(body), headers)
    try:
        with urllib.request.urlopen(request, timeout=15) as answer:
            return answer.status, orjson.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, orjson.loads(error.read())


def ids_on_the_topic(settings: Settings) -> set[str]:
    with TopicReader(settings) as reader:
        return {
            orjson.loads(message.value() or b"")["feedbackId"]
            for _, messages in reader.read(Topics.of(settings).feedback, {}, {})
            for message in messages
        }
