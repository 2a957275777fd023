"""What tests ask of a worker in a process of its own."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from feedback_app.core.partitioning import partition_of
from feedback_app.embedded.worker import WorkerProcess
from feedback_app.provisioning import ensure_topics
from feedback_app.settings import Settings
from feedback_app.topics import Topics
from feedback_app.web.peers import FORWARDED

#: What the ``start_worker`` fixture returns.
StartWorker = Callable[[Settings], WorkerProcess]

#: Settings with which windows close within seconds.
SHORT_WINDOWS: Final[dict[str, Any]] = {
    "partitions": 3,
    "batch_time_ms": 2_000,
    "grace_ms": 1_000,
    "idle_ms": 1_500,
    "retention_ms": 15_000,
    "store_items": False,
    "batch_size": 20,
}
#: For tests in which records are forwarded: each partition gets them from one other. See
#: :class:`EmbeddedBroker <feedback_app.embedded.broker.EmbeddedBroker>` for what it does with more.
FORWARDING: Final[dict[str, Any]] = SHORT_WINDOWS | {"partitions": 2}
#: On top of these: nothing closes while the test runs.
QUIET: Final[dict[str, Any]] = {"batch_time_ms": 3_600_000, "idle_ms": 3_600_000}

STOPS_WITHIN_S: Final = 10.0
_PROBES_EACH: Final = 50


def terminate(worker: WorkerProcess) -> int:
    """Ask a worker to end, as an orchestrator does; return its exit code, once it has ended in time."""
    process = worker._process
    assert process is not None
    process.send_signal(signal.SIGTERM)
    return process.wait(STOPS_WITHIN_S)


def partitions_of(worker: WorkerProcess) -> set[int]:
    """Return the partitions that a worker owns, by asking it for an agent of each, as another worker would."""
    partitions = worker.settings.partitions
    agents: dict[int, str] = {}
    for number in range(_PROBES_EACH * partitions):
        agents.setdefault(partition_of(f"probe-{number}", partitions), f"probe-{number}")
    return {
        partition
        for partition, agent in agents.items()
        if worker.get(f"/feedback/agents/{agent}", **{FORWARDED: "1"})[0] == 200
    }


def owners(worker: WorkerProcess) -> set[str]:
    """Return who owns partitions, once all partitions are ready; nobody before."""
    token = worker.settings.web_token
    headers = {"Authorization": f"Bearer {token.get_secret_value()}"} if token else {}
    status, overview = worker.get("/feedback/overview", **headers)
    assert status == 200, overview
    rows = overview["partitions"]
    return {row["owner"] for row in rows} if all(row["state"] == "ready" for row in rows) else set()


@contextmanager
def workers_of(folder: Path, *settings: Settings) -> Iterator[list[WorkerProcess]]:
    """Yield as many workers, once each owns partitions, and all are ready; their logs are in *folder*."""
    ensure_topics(settings[0], Topics.of(settings[0]).specs())
    with ExitStack() as stack:
        workers = [
            stack.enter_context(WorkerProcess(each, folder / f"{number}.log")) for number, each in enumerate(settings)
        ]
        for worker in workers:
            worker.wait_until_ready()
        urls = {worker.url for worker in workers}
        until(lambda: all(owners(worker) == urls for worker in workers))
        yield workers


def until(what: Callable[[], object], seconds: float = 60) -> None:
    """Wait until *what* is so; fail when it does not come to that in time."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.05)
