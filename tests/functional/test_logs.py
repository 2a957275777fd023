"""What a worker writes to its log: as JSON, one object a line, whoever says it and in whatever way; and its rates."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path

import pytest

from feedback_app.embedded.worker import WorkerProcess, environment
from feedback_app.provisioning import ensure_topics
from feedback_app.publisher import FeedbackPublisher
from feedback_app.settings import LogFormat, Settings
from feedback_app.topics import Topics
from feedback_app.traffic import Traffic, scenario, send, spread
from tests.functional.talkative_worker import SAID
from tests.functional.test_metrics import misplace
from tests.functional.test_worker import closed, event
from tests.services.metrics import Scrape
from tests.services.workers import FORWARDING, StartWorker, terminate, until

MakeSettings = Callable[..., Settings]

_RATES = re.compile(
    r"in \d+ s: (\d+) records counted, (\d+) late, (\d+) dead letters, (\d+) forwarded; (\d+) windows closed; "
    r"(\d+) transactions(.*)"
)
_SHOWN = SAID.encode("utf-8", "backslashreplace").decode()


class LoudWorker(WorkerProcess):
    """A worker that logs to stderr when it has no log file."""

    def __init__(self, settings: Settings, log: Path | None, *, level: str = "info") -> None:
        super().__init__(settings, log or Path(), app="tests.functional.talkative_worker")
        end = self._command.index("--loglevel")
        self._command[end:] = ["--loglevel", level, *(["--logfile", str(log)] if log else [])]

    def output(self) -> str:
        """Return all that it has written to stdout and stderr."""
        assert self._output is not None
        size = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), size, 0).decode()


def parsed(text: str) -> list[dict[str, str]]:
    """Return the lines of a log; each must be what the documentation says."""
    lines: list[dict[str, str]] = []
    for line in text.splitlines():
        record = json.loads(line)
        assert list(record) in (
            ["time", "level", "logger", "message"],
            ["time", "level", "logger", "message", "exception"],
        ), line
        assert all(isinstance(value, str) for value in record.values()), line
        assert record["time"].endswith("Z"), line
        assert len(record["time"]) == len("2026-01-31T12:00:00.000Z"), line
        datetime.fromisoformat(record["time"])
        lines.append(record)
    return lines


def run(settings: Settings, log: Path | None, level: str) -> tuple[str, str]:
    """Let a worker start, say what it has to say, and end; return what it logged and printed."""
    ensure_topics(settings, Topics.of(settings).specs())
    with LoudWorker(settings, log, level=level) as worker:
        worker.wait_until_ready()
        until(lambda: "that was it" in (log.read_text() if log else worker.output()))
        assert terminate(worker) == 0
        return log.read_text() if log else "", worker.output()


@pytest.mark.parametrize(("to_file", "level"), [(True, "info"), (False, "info"), (False, "warn")])
def test_every_line_is_one_json_object(
    embedded_broker: str, settings: MakeSettings, tmp_path: Path, to_file: bool, level: str
) -> None:
    ours = settings(embedded_broker, log_format=LogFormat.JSON, partitions=2)
    logged, printed = run(ours, tmp_path / "worker.log" if to_file else None, level)
    lines = parsed(logged if to_file else printed)
    said = {(line["logger"], line["level"], line["message"]) for line in lines}
    for name in ("mode", "faust", "aiokafka", "feedback_app.librdkafka", "feedback_app"):
        assert (name, "ERROR", _SHOWN) in said
    (failure,) = [line for line in lines if line["message"] == "it went wrong"]
    assert failure["logger"] == "talk"
    assert failure["exception"].startswith("Traceback (most recent call last):\n")
    assert f"ValueError: {_SHOWN}\nStack (most recent call last):\n" in failure["exception"]

    # What has no log to go to yet is on stderr, wherever the log goes. There is nothing else, and no banner.
    early = parsed(printed)
    assert ("too.early", "WARNING", "before logging is set up") in {
        (line["logger"], line["level"], line["message"]) for line in early
    }
    if to_file:
        assert len(early) == 1

    redirected = "\n".join(line["message"] for line in lines if line["logger"] == "mode.redirect")
    assert all(text in redirected for text in ("printed", "complained", "UserWarning: warned of"))
    if level == "info":
        assert {line["level"] for line in lines} >= {"INFO", "WARNING", "ERROR"}
        assert {line["logger"] for line in lines} >= {"faust.app.base", "mode.redirect", "tables.feedback_windows"}
    else:
        assert "INFO" not in {line["level"] for line in lines}


def test_a_crash_is_json_to_the_end(embedded_broker: str, settings: MakeSettings) -> None:
    ours = settings(embedded_broker, log_format=LogFormat.JSON, partitions=2)
    command = [sys.executable, "-m", "faust", "-A", "tests.functional.talkative_worker", "worker"]
    lines = parsed(ended(ours, command, CRASHES="1"))
    assert f"RuntimeError: {_SHOWN}" in "\n".join(line.get("exception", "") for line in lines)
    assert lines[-1]["level"] == "CRITICAL"


def test_text_is_as_faust_writes_it(embedded_broker: str, settings: MakeSettings, tmp_path: Path) -> None:
    logged, printed = run(settings(embedded_broker, partitions=2), tmp_path / "worker.log", "info")
    assert "WARNING]: that was it" in logged
    assert "ƒaµS†" in printed, "the banner"


def test_what_keeps_a_worker_from_starting_is_one_json_object_too(
    embedded_broker: str, settings: MakeSettings, tmp_path: Path
) -> None:
    ours = settings(embedded_broker, log_format=LogFormat.JSON, partitions=2)
    ensure_topics(ours, Topics.of(ours.model_copy(update={"partitions": 3})).specs())
    command = [sys.executable, "-m", "faust", "-A", "feedback_app", "worker", "--logfile", str(tmp_path / "log")]
    (line,) = parsed(ended(ours, command))
    assert (line["level"], line["logger"]) == ("CRITICAL", "feedback_app.logs")
    assert "has 3 partitions" in line["message"]


def test_the_rates_add_up_to_what_was_sent(embedded_broker: str, settings: MakeSettings) -> None:
    ours = settings(embedded_broker, log_format=LogFormat.JSON, **FORWARDING)
    ensure_topics(ours, Topics.of(ours).specs())
    with LoudWorker(ours, None) as worker:
        worker.wait_until_ready()
        traffic = Traffic()
        plan = scenario(ours, seed=7, agents=30, late_share=0.02, invalid_share=0.02)
        send(ours, plan, spread(2_000, 60), traffic, lambda sent: None)
        misplaced = misplace(ours, 60)
        verdict = closed(ours)
        until(lambda: " counted, " in worker.output())
        read = Scrape.of(worker)
        assert terminate(worker) == 0
        lines = parsed(worker.output())
    numbers, ends = [], set()
    for line in lines:
        if line["logger"] == "feedback_app.rates":
            found = _RATES.fullmatch(line["message"])
            assert found, line
            *counts, end = found.groups()
            numbers.append([int(count) for count in counts])
            ends.add(end)
            assert line["level"] == "INFO"
    *records, windows, transactions = map(sum, zip(*numbers, strict=True))
    assert records == [verdict.counted, traffic.late.total(), traffic.invalid.total(), misplaced]
    assert windows == read.total("feedback_windows_closed_total") >= verdict.documents
    assert transactions >= read.total("feedback_transactions_total", outcome="committed") > 0
    assert "; lag 0 in 2 partitions" in ends

    of_windows = {line["logger"] for line in lines if "windows closed" in line["message"]}
    assert of_windows == {"feedback_app.rates"}, "no line a pass"


def test_a_worker_that_stops_tells_what_it_has_not_told_yet(
    embedded_broker: str, settings: MakeSettings, start_worker: StartWorker
) -> None:
    worker = start_worker(settings(embedded_broker, partitions=2, batch_time_ms=3_600_000, store_items=False))
    now = time.time_ns() // 1_000_000
    with FeedbackPublisher(worker.settings) as publisher:
        for number in range(7):
            publisher.publish_bytes(b"agent-1", event(number, "agent-1", now))
    until(lambda: Scrape.of(worker).total("feedback_records_total", outcome="counted") == 7, 30)
    assert terminate(worker) == 0
    (line,) = re.findall(r"in \d+ s: .*", worker.log.read_text())
    assert ": 7 records counted, 0 late, 0 dead letters, 0 forwarded; 0 windows closed; " in line


def ended(settings: Settings, command: Sequence[str], **more: str) -> str:
    """Run a worker that fails; return all that it has printed."""
    env = {**os.environ, **dict(environment(settings)), **more}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=60)
    assert result.returncode == 1
    return result.stdout + result.stderr
