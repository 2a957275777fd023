"""The demo: broker, database, worker and traffic on one machine, and a proof at the end that every record was counted.

The worker is the real one, ``faust -A feedback_app worker``, in a process of its own.
"""

from __future__ import annotations

import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
from rich.console import Console
from rich.table import Table

from feedback_app.core.headers import is_mark
from feedback_app.embedded.broker import EmbeddedBroker
from feedback_app.embedded.database import EmbeddedDatabase
from feedback_app.embedded.process import free_port
from feedback_app.embedded.worker import WorkerProcess
from feedback_app.errors import FeedbackError
from feedback_app.progress import sending, waiting
from feedback_app.settings import Settings, load_settings
from feedback_app.topics import Topics
from feedback_app.traffic import Labelled, Traffic, paced, scenario, send, spread
from feedback_app.verification import Verdict, verify
from feedback_app.verification.reading import TopicReader

_GRACE_MS: Final = 1_000
_IDLE_MS: Final = 2_000
_RETENTION_MS: Final = 10_000
#: The traffic looks as if it had come in over this many windows.
_WINDOWS: Final = 12
_SHARE: Final = 0.01
#: What goes on arriving afterwards, so that there is something to see.
_TRICKLE_PER_S: Final = 50
#: How long the worker may take for an event, at the very least, and for a window on the embedded database.
_SLOWEST_EVENTS_PER_S: Final = 1_000
_SLOWEST_WINDOWS_PER_S: Final = 100


class DemoError(FeedbackError):
    """The demo could not go on."""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What can be asked of the demo."""

    events: int
    agents: int
    window_ms: int
    seed: int
    items: bool
    leave: bool
    as_json: bool


def run_demo(options: DemoOptions) -> int:
    """Run the demo; blocks until it is done, or, unless it is to leave by itself, until Ctrl-C.

    Returns:
        The exit code: 0 when everything was counted as it must be, 1 when not.

    Raises:
        FeedbackError: a part could not be started, or died.
    """
    # So that everything is stopped, and cleaned up, when we are asked to end.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console(stderr=True)
    with (
        tempfile.TemporaryDirectory(prefix="feedback-demo-") as directory,
        console.status("starting the embedded broker and database") as status,
        EmbeddedBroker() as broker,
        EmbeddedDatabase(Path(directory) / "database") as database,
    ):
        settings = _settings(options, broker.url, database.url, Path(directory))
        status.update("starting the worker: faust -A feedback_app worker")
        with WorkerProcess(settings, Path(directory) / "worker.log") as worker:
            worker.wait_until_ready()
            status.stop()
            console.print(f"The worker is up: {worker.url}/feedback/", highlight=False)
            totals = _demonstrate(options, settings, worker, console)
            _show(totals, as_json=options.as_json)
            if not options.leave:
                console.print(
                    f"{_TRICKLE_PER_S} ratings a second go on arriving until Ctrl-C: {worker.url}/feedback/\n"
                    f"To take the database away: kill -STOP {database.pid}; to bring it back: -CONT",
                    highlight=False,
                )
                _stay(options, settings, worker)
    return 0 if totals["verified"] else 1


def _demonstrate(options: DemoOptions, settings: Settings, worker: WorkerProcess, console: Console) -> dict[str, Any]:
    """Send traffic, wait until all of it is counted and closed, and compare."""
    plan = scenario(settings, seed=options.seed, agents=options.agents, late_share=_SHARE, invalid_share=_SHARE)
    traffic = Traffic()
    started = time.monotonic()
    times = spread(options.events, _WINDOWS * options.window_ms / 1000)
    with sending(options.events) as report_sent:
        send(settings, plan, times, traffic, worker.watched(report_sent))
    with waiting("the worker is reading") as report, TopicReader(settings) as reader:
        seconds = _wait_until_read(settings, reader, traffic, worker.watched(report)) - started
        windows = options.agents * (_WINDOWS + 1)
        patience = options.window_ms / 1000 + windows / _SLOWEST_WINDOWS_PER_S + 60
        verdict = verify(settings, patience, until_closed=True, report=worker.watched(report))
        problems = [*_problems(verdict), *_mislabelled(settings, reader, traffic)]
    for problem in problems:
        console.print(problem, markup=False, highlight=False)
    return {
        "produced": traffic.produced,
        "counted": verdict.counted,
        "late": verdict.late,
        "dead_lettered": verdict.dead_lettered,
        "documents": verdict.documents,
        "aggregated_events": verdict.aggregated_events,
        "events_per_second": round(traffic.produced / seconds) if seconds else 0,
        "verified": not problems and verdict.counted + verdict.late + verdict.dead_lettered == traffic.produced,
    }


def _settings(options: DemoOptions, broker_url: str, database_url: str, directory: Path) -> Settings:
    """Return the demo's settings. Those that it has no opinion on come from the environment, as for the worker."""
    return load_settings(
        broker_url=broker_url,
        broker_security="plaintext",
        mongodb_url=database_url,
        replication_factor=1,
        batch_time_ms=options.window_ms,
        grace_ms=_GRACE_MS,
        idle_ms=_IDLE_MS,
        # Short, so that late events can be shown; long enough for the simulator's labels (see there).
        retention_ms=max(_RETENTION_MS, options.window_ms + 2 * _GRACE_MS),
        store_items=options.items,
        data_dir=directory / "data",
        web_host="127.0.0.1",
        web_port=free_port(),
    )


def _wait_until_read(settings: Settings, reader: TopicReader, traffic: Traffic, report: Callable[[str], None]) -> float:
    """Wait until the group has committed all that was sent, and return when that was."""
    topic = Topics.of(settings).feedback
    deadline = time.monotonic() + 60 + traffic.produced / _SLOWEST_EVENTS_PER_S
    while (read := sum(reader.group_offsets(topic).values())) < traffic.produced:
        report(f"the worker has read {read:,} of {traffic.produced:,} records")
        if time.monotonic() > deadline:
            raise DemoError(f"the worker has read only {read:,} of {traffic.produced:,} records")
        time.sleep(0.05)
    return time.monotonic()


def _problems(verdict: Verdict) -> Iterator[str]:
    if verdict.reason:
        yield f"not decided: {verdict.reason}"
    elif verdict.open:
        yield f"{verdict.open} windows are still open"
    yield from verdict.samples


def _mislabelled(settings: Settings, reader: TopicReader, traffic: Traffic) -> Iterator[str]:
    """Compare late and dead letters with the simulator's labels, record by record."""
    topics = Topics.of(settings)
    for topic, labelled in ((topics.late, traffic.late), (topics.dead_letter, traffic.invalid)):
        found: Labelled = Counter()
        for _, messages in reader.read(topic, {}, {}):
            found.update(message.value() for message in messages if not is_mark(message))
        for verb, surplus in (("holds", found - labelled), ("lacks", labelled - found)):
            if surplus:
                example, _ = next(iter(surplus.items()))
                yield f"{topic} {verb} {surplus.total()} records against their labels, such as {example!r}"


def _show(totals: Mapping[str, Any], *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(orjson.dumps(totals).decode() + "\n")
    else:
        table = Table(show_header=False, box=None)
        for name, value in totals.items():
            shown = ("yes" if value else "NO") if isinstance(value, bool) else f"{value:,}"
            table.add_row(name.replace("_", " "), shown)
        Console().print(table)
    sys.stdout.flush()


def _stay(options: DemoOptions, settings: Settings, worker: WorkerProcess) -> None:
    """Send some events a second until Ctrl-C."""
    plan = scenario(settings, seed=options.seed + 1, agents=options.agents, late_share=_SHARE, invalid_share=_SHARE)
    try:
        send(settings, plan, paced(_TRICKLE_PER_S, None), Traffic(), worker.watched(lambda sent: None))
    except KeyboardInterrupt:
        return
