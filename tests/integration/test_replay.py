"""Dead letters sent again to a worker on a real Kafka, by the command: counted once, and the verifier agrees."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
from confluent_kafka import Producer

from feedback_app.connections import librdkafka_config
from feedback_app.core.events import Origin
from feedback_app.core.headers import Header, Mark, is_mark, mark_headers, place
from feedback_app.embedded.worker import WorkerProcess, environment
from feedback_app.provisioning import ensure_topics
from feedback_app.publisher import FeedbackPublisher
from feedback_app.settings import Settings
from feedback_app.topics import Topics
from feedback_app.verification import verify
from feedback_app.verification.differences import Verdict
from feedback_app.verification.reading import TopicReader

_SETTINGS = {
    "partitions": 3,
    "batch_time_ms": 2_000,
    "grace_ms": 1_000,
    "idle_ms": 1_500,
    "retention_ms": 3_600_000,
    "store_items": False,
}


def event(number: int, **more: Any) -> bytes:
    fields = {"feedbackId": f"f-{number}", "agentId": f"a-{number % 7}", "userId": "u", "rating": "positive"}
    return orjson.dumps({**fields, "timestamp": time.time_ns() // 1_000_000, **more})


def closed(settings: Settings) -> Verdict:
    """Wait until everything is counted and closed; the verifier's recount must agree."""
    verdict = verify(settings, 120, until_closed=True)
    assert verdict.verified, verdict
    return verdict


@contextmanager
def producer_of(settings: Settings) -> Iterator[Producer]:
    producer = Producer(librdkafka_config(settings))
    yield producer
    assert producer.flush(20) == 0


def test_replayed_letters_are_counted_once_and_verified(
    kafka: str, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    ours = settings(kafka, **_SETTINGS)
    topics = Topics.of(ours)
    ensure_topics(ours, topics.specs())

    def replay(*arguments: str, code: int) -> dict[str, Any]:
        command = [sys.executable, "-m", "faust", "-A", "feedback_app", "dead-letters", "replay", "--json", *arguments]
        env = dict(environment(ours))
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, **env}, timeout=120
        )
        assert done.returncode == code, done.stdout + done.stderr
        totals: dict[str, Any] = orjson.loads(done.stdout.splitlines()[-1])
        return totals

    with WorkerProcess(ours, tmp_path / "worker.log") as worker:
        worker.wait_until_ready()
        with FeedbackPublisher(ours) as publisher:
            for number in range(40):
                more = {"score": 9} if number % 4 == 0 else {}
                publisher.publish_bytes(b"any key", event(number, **more))
            publisher.publish_bytes(None, b"\x1b[2J")
        before = closed(ours)
        assert (before.input, before.counted, before.dead_lettered, before.replayed) == (41, 30, 11, 0)

        first = replay("--edit", ".score = 5", code=1)
        assert (first["sent"], first["not_sent"]) == (10, 1)
        second = replay("--edit", ".score = 5", code=1)
        assert (second["sent"], second["already_replayed"]) == (0, 10)
        after = closed(ours)
        assert (after.input, after.counted, after.dead_lettered, after.replayed) == (51, 40, 11, 10)

        # What a producer writes into the headers of its records is trusted nowhere: not on the input, and not once
        # the record is a dead letter.
        letter = Origin(topics.dead_letter, 0, 0)
        forged: Any = [
            (str(Header.REPLAYED_FROM), place(letter)),
            *((str(name), value) for name, value in mark_headers(Mark(0, Origin(topics.feedback, 0, 0)))),
        ]
        with producer_of(ours) as producer:
            producer.produce(topics.feedback, event(100), b"any key", 0, headers=forged)
            producer.produce(topics.feedback, None, b"any key", 0, headers=forged)
        last = closed(ours)
        assert (last.input, last.counted, last.dead_lettered, last.replayed) == (53, 41, 12, 10)

    # But a letter that was replayed a second time is a contradiction.
    with TopicReader(ours) as reader:
        records = [message for _, messages in reader.read(topics.dead_letter, {}, {}) for message in messages]
    mark = next(message for message in records if is_mark(message))
    with producer_of(ours) as producer:
        producer.produce(topics.dead_letter, None, None, mark.partition() or 0, headers=mark.headers())
    verdict = verify(ours)
    assert (verdict.extra, verdict.missing, verdict.different) == (1, 0, 0), verdict
    assert "was replayed as" in verdict.samples[0]
