"""The commands on the application, and the demo, each as a process of its own: output, exit codes, one-line errors."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from pymongo.collection import Collection

from feedback_app.embedded.process import free_port
from feedback_app.provisioning import open_database
from feedback_app.settings import PREFIX, Settings

_OPERATIONS = Path(__file__).parents[2] / "docs" / "operations.md"

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(embedded_broker: str, settings: Callable[..., Settings], tmp_path: Path) -> Run:
    """Return ``run("topics", "--check", FEEDBACK_PARTITIONS="3")``: a command on topics of this test's own."""
    ours = settings(embedded_broker, data_dir=tmp_path / "data")
    environment = {
        "BROKER_URL": embedded_broker,
        "MONGODB_URL": ours.mongodb_url.get_secret_value(),
        "MONGODB_DATABASE": ours.mongodb_database,
        "APP_ID": ours.app_id,
        "TOPIC_PREFIX": ours.topic_prefix,
        "DATA_DIR": str(ours.data_dir),
        "GRACE_MS": "1000",
    }

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "faust", "-A", "feedback_app", *arguments]
        env = {**os.environ, **{PREFIX + name: value for name, value in environment.items()}, **more}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=env, timeout=60)

    return run


@pytest.fixture
def items(embedded_broker: str, settings: Callable[..., Settings]) -> Iterator[Collection[dict[str, Any]]]:
    """The items of two users, the first of whom has more than fit into one batch."""
    with open_database(settings(embedded_broker)) as database:
        collection = database["feedback"]
        collection.insert_many([{"_id": str(number), "userId": "other"} for number in range(3)])
        collection.insert_many([{"_id": f"u-{number}", "userId": "ünloved"} for number in range(2_500)])
        yield collection


def last_line(result: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    answer: dict[str, Any] = orjson.loads(result.stdout.splitlines()[-1])
    return answer


def test_simulate_makes_topics_and_says_what_it_sent_and_verify_waits_for_a_worker(run: Run) -> None:
    before = run("topics", "--check", "--json")
    assert before.returncode == 1
    assert {topic["partitions"] for topic in last_line(before)["topics"]} == {0}
    assert run("topics").returncode == 0

    sent = run("simulate", "--events", "2000", "--seed", "3", "--json")
    assert sent.returncode == 0, sent.stderr
    totals = last_line(sent)
    assert totals["produced"] == totals["counted"] + totals["late"] + totals["invalid"] == 2_000
    assert totals["seed"] == 3
    assert "2000/2000" in sent.stderr

    paced = run("simulate", "--rate", "200", "--seconds", "1", "--late-share", "0", "--invalid-share", "0")
    assert paced.returncode == 0, paced.stderr
    assert "counted  200\n" in paced.stdout

    assert run("topics", "--check").returncode == 0
    undecided = run("verify", "--json")
    assert undecided.returncode == 2
    assert last_line(undecided)["verified"] is False
    assert "2200 records" in last_line(undecided)["reason"]

    mismatch = run("topics", "--check", FEEDBACK_PARTITIONS="3")
    assert mismatch.returncode == 1
    assert "set FEEDBACK_PARTITIONS=8 or use another FEEDBACK_TOPIC_PREFIX" in mismatch.stdout
    refused = run("simulate", FEEDBACK_PARTITIONS="3")
    assert refused.returncode == 1
    assert refused.stderr.startswith("Error: topic ")


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["simulate", "--rate", "5", "--events", "3"], "--rate and --events exclude each other"),
        (["simulate", "--seconds", "5"], "--seconds goes with --rate"),
        (["simulate", "--late-share", "0.6", "--invalid-share", "0.6"], "more than 1 together"),
        (["simulate", "--events", "many"], "'many' is not a valid integer"),
        (
            ["dead-letters", "replay", "--edit", ".", "--from-file", __file__],
            "--edit and --from-file exclude each other",
        ),
        (["dead-letters", "replay", "--edit", ".a["], "--edit '.a[': no jq expression: syntax error"),
        (["dead-letters", "replay", "--from-file", __file__], "line 1: no JSON"),
        (["dead-letters", "list", "--limit", "0"], "0 is not in the range x>=1"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(run: Run, arguments: list[str], complaint: str) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "command",
    ["simulate", "verify", "topics", "forget", "windows", "partitions", "dead-letters list", "dead-letters replay"],
)
def test_every_command_explains_itself(run: Run, command: str) -> None:
    result = run(*command.split(), "--help")
    assert result.returncode == 0
    assert "--json" in result.stdout


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        ("feedback-app d", ["demo"]),
        ("feedback-app demo --w", ["--window-ms"]),
        ("faust -A feedback_app si", ["simulate"]),
        ("faust -A feedback_app dead-letters r", ["replay"]),
        ("faust -A feedback_app verify --u", ["--until-closed"]),
        ("faust -A feedback_app worker --logl", ["--loglevel"]),
    ],
)
def test_bash_completes_what_is_typed(settings: Callable[..., Settings], words: str, completions: list[str]) -> None:
    """As docs/operations.md sets it up; no broker and no database is there."""
    settings("kafka://127.0.0.1:1", mongodb_url="mongodb://127.0.0.1:1")  # none from the environment
    _, _, section = _OPERATIONS.read_text(encoding="utf-8").partition("### Completion in the shell\n")
    function = "_faust_feedback_app" if words.startswith("faust") else "_feedback_app_completion"
    script = f"""
        {section.partition("```sh")[2].partition("```")[0]}
        COMP_WORDS=({words}) COMP_CWORD={words.count(" ")}
        {function} {words.partition(" ")[0]}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": path},
        timeout=60,
    )
    assert (result.stderr, result.stdout.split()) == ("", completions)


def test_forget_erases_the_items_of_one_user_and_says_what_stays(run: Run, items: Collection[dict[str, Any]]) -> None:
    assert run("forget", "--user-id", "nobody").returncode == 0

    asked = run("forget", "--user-id", "ünloved")
    assert asked.returncode == 1
    assert "Erase 2,500 items" in asked.stderr
    assert "Nothing was erased." in asked.stderr
    assert items.count_documents({}) == 2_503

    erased = run("forget", "--user-id", "ünloved", "--yes", "--json")
    assert erased.returncode == 0, erased.stderr
    totals = last_line(erased)
    assert totals["erased"] == 2_500
    assert any(where.endswith("-feedback-late") for where in totals["stays"])
    assert sorted(item["_id"] for item in items.find()) == ["0", "1", "2"]

    again = run("forget", "--user-id", "ünloved", "--yes")
    assert again.returncode == 0
    assert again.stdout.startswith("0 items were erased. What stays:\n")
    assert "until the topic's retention has passed" in again.stdout
    assert "ünloved" not in erased.stdout + erased.stderr + again.stdout


def test_forget_says_in_one_line_why_it_can_not(run: Run) -> None:
    unreachable = f"mongodb://me:s3cret@127.0.0.1:{free_port()}"
    result = run("forget", "--user-id", "u", "--yes", FEEDBACK_MONGODB_URL=unreachable)
    assert result.returncode == 1
    assert result.stderr.rstrip().rpartition("\n")[2].startswith("Error: FEEDBACK_MONGODB_URL=mongodb://127.0.0.1:")
    assert "s3cret" not in result.stderr
    for wrong in ([], ["--user-id", ""], ["--user-id", "x" * 129]):
        assert run("forget", *wrong).returncode == 2


def test_the_demo_counts_everything_and_ends_by_itself(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "feedback_app", "demo", "--events", "4000", "--agents", "20", "--exit", "--json"]
    result = subprocess.run([*command, "--window-ms", "1000"], capture_output=True, text=True, check=False, timeout=110)
    assert result.returncode == 0, result.stderr
    totals = last_line(result)
    assert result.stdout.count("\n") == 1
    assert totals["verified"] is True
    assert totals["produced"] == totals["counted"] + totals["late"] + totals["dead_lettered"] == 4_000
    assert totals["documents"] == totals["aggregated_events"] > 0
    assert totals["events_per_second"] > 0
