"""SIGTERM ends a worker within ten seconds, whatever it is doing and whatever is away, on a real Kafka."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

from feedback_app.embedded.database import EmbeddedDatabase
from feedback_app.provisioning import ensure_topics
from feedback_app.settings import Settings
from feedback_app.topics import Topics
from feedback_app.traffic import Traffic, scenario, send, spread
from feedback_app.verification import verify
from feedback_app.verification.reading import TopicReader
from tests.services.kafka import ApacheKafka
from tests.services.workers import STOPS_WITHIN_S, StartWorker, terminate, until

MakeSettings = Callable[..., Settings]

_SETTINGS = {
    "partitions": 4,
    "batch_time_ms": 2_000,
    "grace_ms": 1_000,
    "idle_ms": 2_000,
    "retention_ms": 15_000,
    "store_items": False,
}


def test_a_worker_at_full_speed_stops_in_order_and_reads_nothing_again(
    kafka: str, settings: MakeSettings, start_worker: StartWorker
) -> None:
    """The transaction under way is finished, the group is left, and the next start goes on where this one ended."""
    ours = settings(kafka, **_SETTINGS)
    traffic = backlog(ours, 600_000)  # some seconds: the group is told four times a second how far it is
    worker = start_worker(ours)
    until(lambda: told(ours))
    began = time.monotonic()
    assert terminate(worker) == 0
    print(f"stopped after {time.monotonic() - began:.1f} s")
    assert "LeaveGroup request succeeded" in worker.log.read_text()
    assert "in the middle of a transaction" not in worker.log.read_text()
    reached = told(ours)
    with TopicReader(ours) as reader:
        topic = Topics.of(ours).feedback
        ends = {partition: range_.end for partition, range_ in reader.ranges(topic).items()}
    assert any(reached.get(partition, 0) < end for partition, end in ends.items()), "it was not at full speed"

    logged = len(worker.log.read_text())
    worker.start()
    worker.wait_until_ready()
    restarted = worker.log.read_text()[logged:]
    starts = re.findall(rf"partition (\d+) is taken over: (\d+) changelog.*'{re.escape(topic)}': (\d+)", restarted)
    assert {int(restored) for _, restored, _ in starts} == {0}, "what was committed is in RocksDB too"
    assert {int(partition): int(start) for partition, _, start in starts} == {
        partition: reached.get(partition, 0) for partition in ends
    }
    verdict = verify(ours, 90, until_closed=True)
    assert verdict.verified, verdict
    assert (verdict.input, verdict.counted) == (traffic.produced, traffic.counted)


def test_a_worker_whose_broker_is_away_is_alive_and_stops(
    own_kafka: ApacheKafka, settings: MakeSettings, start_worker: StartWorker
) -> None:
    """Restarting it would not help; being asked to stop does, also in the middle of a transaction."""
    ours = settings(own_kafka.url, **_SETTINGS)
    backlog(ours, 100_000)
    worker = start_worker(ours)
    until(lambda: told(ours))
    own_kafka.kill()
    away = time.monotonic()
    while time.monotonic() < away + 45 and worker.running:
        assert worker.get("/health/live")[0] in {200, 0}  # 0: it has just ended
        time.sleep(0.5)  # the outage has to last
    if worker.running:
        assert worker.get("/health/live") == (200, {"status": "live"})
        began = time.monotonic()
        assert terminate(worker) in {0, 1}, worker.end_of_log()  # 1: it had to be cut short
        print(f"stopped after {time.monotonic() - began:.1f} s")
    else:
        assert worker._process is not None
        assert worker._process.returncode == 1, "for its supervisor to start it again"


def test_a_worker_whose_database_is_away_stops_and_a_second_signal_changes_nothing(
    kafka: str, settings: MakeSettings, start_worker: StartWorker, tmp_path: Path
) -> None:
    with EmbeddedDatabase(tmp_path / "own-database") as database:
        ours = settings(kafka, mongodb_url=database.url, **_SETTINGS)
        backlog(ours, 1_000)
        worker = start_worker(ours)
        database.kill()
        until(lambda: (worker.get("/health/ready")[1] or {}).get("status") == "degraded")
        assert worker.get("/health/live") == (200, {"status": "live"})
        process = worker._process
        assert process is not None
        deadline = time.monotonic() + STOPS_WITHIN_S
        while process.poll() is None:
            assert time.monotonic() < deadline
            process.send_signal(signal.SIGTERM)
            time.sleep(0.001)  # often, to also meet the short steps between the loop and the end
        assert process.returncode == 0
        assert "LeaveGroup request succeeded" in worker.log.read_text()
        database.start()
        worker.start()
        verdict = verify(ours, 90, until_closed=True)
        assert verdict.verified, verdict


def backlog(settings: Settings, records: int) -> Traffic:
    ensure_topics(settings, Topics.of(settings).specs())
    traffic = Traffic()
    send(
        settings,
        scenario(settings, seed=3, agents=60, late_share=0, invalid_share=0),
        spread(records, 60),
        traffic,
        lambda sent: None,
    )
    return traffic


def told(settings: Settings) -> dict[int, int]:
    """Return the offsets that the group was told for the input, by partition."""
    with TopicReader(settings) as reader:
        return reader.group_offsets(Topics.of(settings).feedback)
