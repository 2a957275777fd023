"""A worker a part of which has died or hangs says so, and ends."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from feedback_app.embedded.worker import WorkerProcess
from feedback_app.publisher import FeedbackPublisher
from feedback_app.settings import Settings
from tests.functional.test_worker import event, open_count
from tests.services.workers import until

MakeSettings = Callable[..., Settings]
StartWorker = Callable[..., WorkerProcess]

_SETTINGS = {
    "partitions": 1,
    "batch_time_ms": 3_600_000,
    "idle_ms": 3_600_000,
    "store_items": False,
}
#: When the worker counts as dead, and when it ends, in seconds: fast.
_FAST = (3.0, 6.0)
#: How long after that an orderly stop may take.
_STOP_S = 10.0


@pytest.fixture
def start_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StartWorker]:
    """Return ``start(settings, deadlines)``, which starts a worker that parts of can be made to hang."""
    with ExitStack() as stack:

        def start(settings: Settings, deadlines: tuple[float, float]) -> WorkerProcess:
            monkeypatch.setenv("LIVENESS", "{} {}".format(*deadlines))
            log = tmp_path / f"worker-{settings.web_port}.log"
            worker = stack.enter_context(WorkerProcess(settings, log, app="tests.functional.hung_workers"))
            worker.wait_until_ready()
            return worker

        yield start


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("the agent ends", "agent agents.feedback has ended"),
        ("the consumer's thread ends", "the consumer's thread has ended"),
        ("the consumer's thread hangs", "the consumer's thread does not answer"),
        ("the coordination ends", "aiokafka's coordination task has ended"),
        ("the fetcher ends", "Faust's fetcher has ended"),
        ("the fold ends", "partition 0 is owned, and nobody works on it"),
        ("the group refuses", "the group does not take this member: GroupAuthorizationFailedError"),
        ("the producer hangs", "the producer of partition 0: commit_transaction does not return"),
        ("the reader ends", "partition 0 is not read any more"),
        ("the source hangs", "the source of partition 0: consume does not return"),
        ("the streams hang", "feedback[0] does not arrive"),
    ],
)
def test_a_part_that_has_died_or_hangs_is_named_and_the_worker_ends(
    embedded_broker: str, settings: MakeSettings, start_worker: StartWorker, fault: str, reason: str
) -> None:
    ours = settings(embedded_broker, **_SETTINGS)
    worker = start_worker(ours, _FAST)
    assert worker.get("/health/live") == (200, {"status": "live"})
    assert_dies(worker, fault, reason, _FAST)
    assert reason in worker.log.read_text()


@pytest.mark.slow
def test_with_the_figures_of_production_it_is_named_within_thirty_seconds(
    embedded_broker: str, settings: MakeSettings, start_worker: StartWorker
) -> None:
    ours = settings(embedded_broker, **_SETTINGS)
    worker = start_worker(ours, (20.0, 60.0))
    assert_dies(worker, "the consumer's thread hangs", "the consumer's thread does not answer", (20.0, 60.0))


def test_an_event_loop_that_hangs_ends_the_worker(
    embedded_broker: str, settings: MakeSettings, start_worker: StartWorker
) -> None:
    """Nobody answers any more, and nobody is there to stop in an orderly way; stderr says where it hangs."""
    ours = settings(embedded_broker, **_SETTINGS)
    worker = start_worker(ours, _FAST)
    commit(worker, "the event loop hangs")
    assert exit_code(worker, _FAST[1] + _STOP_S) == 1
    assert "hung_workers.py" in printed(worker)


@pytest.mark.parametrize("fault", ["the consumer's thread hangs", "the producer hangs"])
def test_sigterm_ends_a_worker_in_which_a_thread_hangs(
    embedded_broker: str, settings: MakeSettings, start_worker: StartWorker, fault: str
) -> None:
    ours = settings(embedded_broker, **_SETTINGS)
    worker = start_worker(ours, (2.0, 60.0))
    commit(worker, fault)
    publish(ours)
    until(lambda: worker.get("/health/live")[0] == 503, 30)
    os.kill(worker.pid, signal.SIGTERM)
    assert exit_code(worker, _STOP_S) in {0, 1}  # 0: it was only the end of the process that would have waited


def test_an_agent_that_faust_starts_anew_goes_on(
    embedded_broker: str, settings: MakeSettings, start_worker: StartWorker
) -> None:
    ours = settings(embedded_broker, **_SETTINGS)
    worker = start_worker(ours, _FAST)
    publish(ours)
    until(lambda: open_count(worker, "agent-1") == 1, 30)
    commit(worker, "the agent is cancelled")
    until(lambda: "Restarting on rebalance" in worker.log.read_text(), 30)
    publish(ours)
    until(lambda: open_count(worker, "agent-1") == 2, 30)
    assert worker.get("/health/live") == (200, {"status": "live"})


def assert_dies(worker: WorkerProcess, fault: str, reason: str, deadlines: tuple[float, float]) -> None:
    """Commit *fault*, and see the worker first say so and then end."""
    commit(worker, fault)
    told = time.monotonic()
    publish(worker.settings)
    overdue_s, lethal_s = deadlines

    def named() -> bool:
        status, body = worker.get("/health/live")
        return (status, body["status"]) == (503, "dead") and any(reason in given for given in body["reasons"])

    until(named, told + overdue_s + 10 - time.monotonic())
    assert exit_code(worker, told + lethal_s + _STOP_S + 5 - time.monotonic()) == 1


def commit(worker: WorkerProcess, fault: str) -> None:
    unfinished = worker.settings.data_dir / "fault.new"
    unfinished.write_text(fault)
    unfinished.rename(worker.settings.data_dir / "fault")


def publish(settings: Settings) -> None:
    with FeedbackPublisher(settings) as publisher:
        publisher.publish_bytes(b"agent-1", event(1, "agent-1", time.time_ns() // 1_000_000))


def printed(worker: WorkerProcess) -> str:
    output = worker._output
    assert output is not None
    return os.pread(output.fileno(), 1 << 20, 0).decode()


def exit_code(worker: WorkerProcess, within_s: float) -> int:
    process = worker._process
    assert process is not None
    return process.wait(within_s)
