"""Every example in the documents works: it is run, or, where that takes engines or hours, checked as far as can be.

An example that nothing knows how to check fails.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge

from feedback_app.embedded.worker import WorkerProcess, environment
from feedback_app.provisioning import ensure_topics, open_database
from feedback_app.publisher import FeedbackPublisher
from feedback_app.rates import Rates
from feedback_app.settings import Settings
from feedback_app.topics import Topics
from feedback_app.verification.reading import TopicReader
from tests.services.examples import DOCUMENTS, ROOT, Example, assignments, blocks, commands, lines, spans
from tests.services.shown_commands import check_command, check_option, check_variables
from tests.services.workers import SHORT_WINDOWS, StartWorker, until

MakeSettings = Callable[..., Settings]

_WITHIN_S: Final = 90.0
_TOKEN: Final = "open-sesame"
#: Programs that a block may consist of to be run as it stands, with a worker beside it.
_RUN: Final = {"faust", "curl", "jq", "sort", "uniq"}
#: Without these they would run until Ctrl-C, or ask.
_MORE: Final = {"simulate": "--seconds 2", "forget": "--yes"}
#: The simulated traffic has letters that a score does not mend: so they are told, and not sent.
_EXIT_CODES: Final = {"dead-letters": 1}
_EVENT: Final = {"agentId": "agent-7", "userId": "u-1", "rating": "positive", "timestamp": 1_790_000_000_000}


@dataclass(frozen=True, slots=True)
class Site:
    """A worker at work, and what commands beside it need."""

    worker: WorkerProcess
    folder: Path

    @property
    def settings(self) -> Settings:
        return self.worker.settings

    def run(self, script: str, *, exit_code: int = 0) -> str:
        """Run a script; return what it prints. It must end as it should."""
        return shell(script, self.settings, self.folder, exit_code=exit_code)


@pytest.fixture
def start_site(
    embedded_broker: str, settings: MakeSettings, start_worker: StartWorker, tmp_path: Path
) -> Callable[[], Site]:
    """Return ``start_site()``: a worker that closes windows within seconds, with a token."""

    def start() -> Site:
        folder = tmp_path / "elsewhere"
        folder.mkdir()
        worker = start_worker(settings(embedded_broker, web_token=_TOKEN, **SHORT_WINDOWS))
        return Site(worker, folder)

    return start


def shell(script: str, settings: Settings, folder: Path, *, exit_code: int = 0) -> str:
    """Run a script in bash, with this environment's programs on the PATH."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": programs, **dict(environment(settings)), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=_WITHIN_S,
    )
    assert done.returncode == exit_code, f"{script}\n{done.stdout}{done.stderr}"
    return done.stdout


# -- blocks ----------------------------------------------------------------------------------------------------------


def test_there_are_examples() -> None:
    assert len(list(blocks())) >= 10
    assert len(list(spans())) >= 50


@pytest.mark.parametrize("block", list(blocks()), ids=str)
def test_a_block_works(block: Example, request: pytest.FixtureRequest) -> None:
    checks: dict[str, Callable[[Example, pytest.FixtureRequest], None]] = {
        "python": check_python,
        "sh": check_shell,
        "text": check_text,
    }
    assert block.language in checks, f"nothing knows how to check a block of {block.language!r}"
    checks[block.language](block, request)


def check_python(block: Example, request: pytest.FixtureRequest) -> None:
    """Run it as a program of the chat service; the event that it publishes must arrive."""
    settings = request.getfixturevalue("settings")(request.getfixturevalue("embedded_broker"), partitions=2)
    ensure_topics(settings, Topics.of(settings).specs())
    env = {**os.environ, **dict(environment(settings)), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block.text], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (event,) = published(settings)
    assert [name for name in event if f'"{name}"' not in block.text] == []
    assert event["agentId"] == "agent-7"


def check_shell(block: Example, request: pytest.FixtureRequest) -> None:
    scripted = list(lines(block.text))
    if any(line.startswith("eval ") for line in scripted):
        check_completion(block, request)
        return
    words = [command for line in scripted for command in commands(line)]
    programs = {command[0] for command in words if assignments(command) is None}
    if programs and programs <= _RUN:
        run_beside_a_worker(scripted, request.getfixturevalue("start_site")())
        return
    variables: dict[str, str] = {}
    for command in words:
        variables |= assignments(command) or {}
    check_variables(variables)
    for command in words:
        if command[0] == "faust" and "worker" in command:
            run_worker(command, request)
        elif assignments(command) is None:
            check_command(command)


def run_beside_a_worker(scripted: list[str], site: Site) -> None:
    """Run each line; afterwards everything must be counted right."""
    for program in {"curl", "jq"} & {command[0] for line in scripted for command in commands(line)}:
        require(program)
    write_dead_letters(site)
    for line in scripted:
        if line.startswith("curl"):
            answered = json.loads(site.run(f"{with_address(line, site)} --silent --show-error --fail"))
            assert answered == {"accepted": 1, "rejected": []}
            continue
        printed = site.run(line)
        if "uniq" in line:
            assert re.findall(r"1 (\w+): ", printed) == ["rating", "score"]
        if line.rstrip().endswith("# edit it, then:"):
            edit(site.folder / "letters.jsonl")
        if "--from-file" in line:
            until(lambda: stored(site) == 1)
    site.run("faust -A feedback_app verify --wait 60")


def run_worker(command: list[str], request: pytest.FixtureRequest) -> None:
    """Start it as it is written, until it is ready, and stop it as an orchestrator does."""
    settings = request.getfixturevalue("settings")(request.getfixturevalue("embedded_broker"), partitions=2)
    folder = request.getfixturevalue("tmp_path")
    with Typed(settings, folder / "worker.log", command) as worker:
        worker.wait_until_ready()
        process = worker._process
        assert process is not None
        process.send_signal(signal.SIGTERM)
        assert process.wait(_WITHIN_S) == 0


def check_completion(block: Example, request: pytest.FixtureRequest) -> None:
    """Make sure that bash takes it; what it completes then, ``test_commands`` looks at."""
    settings = request.getfixturevalue("settings")("kafka://127.0.0.1:1", mongodb_url="mongodb://127.0.0.1:1")
    script = f"{block.text}\ncomplete -p faust feedback-app"
    printed = shell(script, settings, request.getfixturevalue("tmp_path"))
    assert "-F _faust_feedback_app faust" in printed
    assert "-F _feedback_app_completion feedback-app" in printed


def check_text(block: Example, request: pytest.FixtureRequest) -> None:
    """A figure names topics that there are; a line of the log is one that is logged."""
    if "──" in block.text:
        names = {spec.name for spec in Topics.of(Settings.model_construct()).specs()}
        named = set(re.findall(r"\bfeedback-[a-z-]+", block.text))
        assert named
        assert {name for name in named if not any(known.startswith(name) for known in names)} == set()
        return
    assert block.text.startswith("in 60 s: "), "nothing knows how to check this"
    caplog: pytest.LogCaptureFixture = request.getfixturevalue("caplog")
    with caplog.at_level(logging.INFO, "feedback_app.rates"):
        told(*map(int, re.findall(r"\d+", block.text)))
    assert caplog.messages == [block.text.rstrip("\n")]


def told(seconds: int, counted: int, late: int, dead: int, forwarded: int, closed: int, done: int, *of: int) -> None:
    """Let a worker's figures be these, and tell them."""
    registry = CollectorRegistry()
    records = Counter("feedback_records", "", ["outcome"], registry=registry)
    windows = Counter("feedback_windows_closed", "", ["kind"], registry=registry)
    transactions = Counter("feedback_transactions", "", ["outcome"], registry=registry)
    lag = Gauge("feedback_lag_records", "", ["partition"], registry=registry)
    partitions = Gauge("feedback_partitions", "", ["state"], registry=registry)
    rates = Rates(registry)
    rates._since -= seconds
    for outcome, count in zip(
        ("counted", "late", "dead_letter", "forwarded"), (counted, late, dead, forwarded), strict=True
    ):
        records.labels(outcome).inc(count)
    windows.labels("first").inc(closed)
    transactions.labels("committed").inc(done)
    lag.labels("0").set(of[0])
    partitions.labels("ready").set(of[1])
    rates.tell()


# -- commands in running text ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_command_that_is_named_could_be_typed(document: str) -> None:
    checked = [span for span in spans() if span.document == document and not is_option(span) and not is_message(span)]
    for span in checked:
        try:
            for command in commands(span.text):
                check_command(command)
        except AssertionError as error:
            pytest.fail(f"{span}: {span.text}: {error}")


def test_an_option_that_is_named_is_one_of_a_command() -> None:
    for span in filter(is_option, spans()):
        try:
            check_option(span.text)
        except AssertionError as error:
            pytest.fail(f"{span}: {span.text}: {error}")


def is_option(span: Example) -> bool:
    return span.text.startswith(("-", "ARGS="))


def is_message(span: Example) -> bool:
    """Say whether it begins as a setting does, and is what a worker says of one."""
    return re.match(r"FEEDBACK_\w+=\S*\.\.\.", span.text) is not None


def test_the_commands_in_the_readme_work(start_site: Callable[[], Site]) -> None:
    """Those of the table, in its order, and with the words that it has; the worker runs already."""
    table = re.findall(r"^\| `(faust -A feedback_app (\S+)[^`]*)` \|", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert [name for _, name in table] == [
        *("worker", "simulate", "verify", "dead-letters", "windows", "partitions", "forget", "topics")
    ]
    site = start_site()
    for text, name in table[1:]:
        typed = f"{text.replace('AGENT_ID', 'agent-7')} {_MORE.get(name, '')}"
        printed = site.run(typed, exit_code=_EXIT_CODES.get(name, 0))
        assert printed.strip(), text


# -- what the examples need ------------------------------------------------------------------------------------------


class Typed(WorkerProcess):
    """A worker that is started as a document says."""

    def __init__(self, settings: Settings, log: Path, command: list[str]) -> None:
        super().__init__(settings, log)
        assert command[0] == "faust"
        self._command = [sys.executable, "-m", *command]


def require(program: str) -> None:
    if shutil.which(program) is None:
        if os.environ.get("REQUIRE_SERVICES") == "1":
            pytest.fail(f"REQUIRE_SERVICES=1, but there is no {program}", pytrace=False)
        pytest.skip(f"there is no {program}")


def with_address(line: str, site: Site) -> str:
    """Return a line that asks a worker on this machine, with a token left out, as one that asks ours."""
    assert "http://localhost:6066/" in line
    assert "Bearer ..." in line
    return line.replace("http://localhost:6066", site.worker.url).replace("Bearer ...", f"Bearer {_TOKEN}")


def write_dead_letters(site: Site) -> None:
    """Write an event that only needs a number for a text, and one that somebody has to look at."""
    topic = Topics.of(site.settings).dead_letter
    with FeedbackPublisher(site.settings) as publisher:
        for number, wrong in enumerate(({"score": "4"}, {"rating": "good"})):
            event = {"feedbackId": f"f-{number}", **_EVENT, **wrong}
            publisher.publish_bytes(b"agent-7", json.dumps(event).encode())
    with TopicReader(site.settings) as reader:
        until(lambda: sum(end - first for first, end in reader.ranges(topic).values()) >= 2)


def edit(letters: Path) -> None:
    """Mend the one letter by hand."""
    assert '"good"' in letters.read_text()
    letters.write_text(letters.read_text().replace('"good"', '"positive"'))


def stored(site: Site) -> int:
    with open_database(site.settings) as database:
        return sum(int(document["count"]) for document in database["feedback_windows"].find())


def published(settings: Settings) -> list[dict[str, Any]]:
    """Return the events on the input."""
    found: list[dict[str, Any]] = []
    with TopicReader(settings) as reader:
        for _, records in reader.read(Topics.of(settings).feedback, {}, {}):
            found += [json.loads(record.value() or b"") for record in records]
    return found
