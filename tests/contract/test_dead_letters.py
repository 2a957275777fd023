"""``dead-letters list`` and ``replay`` on a real Kafka; the letters are written as a worker writes them.

Each letter is of agent ``a-N`` and invalid by its score, but for some; ``REPAIR`` makes it valid.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Message, Producer

from feedback_app.connections import librdkafka_config
from feedback_app.core.events import Origin
from feedback_app.core.headers import Header, origin_headers, replayed_from
from feedback_app.core.partitioning import partition_of
from feedback_app.deadletters import replaying
from feedback_app.deadletters.commands import dead_letters
from feedback_app.deadletters.editing import Expression
from feedback_app.deadletters.judging import Judge, Ready
from feedback_app.deadletters.letters import DeadLetter, Wanted
from feedback_app.deadletters.reading import LetterTopic
from feedback_app.deadletters.replaying import ReplayProducer, Totals, replay
from feedback_app.embedded.worker import environment
from feedback_app.errors import Fenced
from feedback_app.provisioning import ensure_topics
from feedback_app.settings import Settings
from feedback_app.topics import Topics
from feedback_app.verification.reading import TopicReader

PARTITIONS = 3
NOW = time.time_ns() // 1_000_000
REPAIR = ".score = 5"
JUDGE = Judge(Expression(REPAIR), NOW + 300_000)
ALL = Wanted()


def event(number: int, **more: Any) -> bytes:
    fields = {"feedbackId": f"f-{number}", "agentId": f"a-{number}", "userId": "u", "rating": "positive"}
    return orjson.dumps({**fields, "timestamp": NOW, "score": 9, **more})


@pytest.fixture
def ours(kafka: str, settings: Callable[..., Settings]) -> Settings:
    made = settings(kafka, mongodb_url="mongodb://127.0.0.1:1", partitions=PARTITIONS)
    ensure_topics(made, Topics.of(made).specs())
    return made


def set_aside(settings: Settings, *values: bytes | None, error: str = "score: too much", **config: Any) -> Producer:
    """Write dead letters, to one partition after the other; with a transactional id the transaction stays open."""
    topics = Topics.of(settings)
    producer = Producer(librdkafka_config(settings, **config))
    if config:
        producer.init_transactions(20)
        producer.begin_transaction()
    for number, value in enumerate(values):
        headers = [
            ("trace", b"t"),
            (str(Header.ERROR), error.encode()),
            *origin_headers(Origin(topics.feedback, number % PARTITIONS, number)),
            (str(Header.DECIDED_AT), b"%d" % NOW),
        ]
        producer.produce(topics.dead_letter, value, b"key", number % PARTITIONS, headers=list(headers))
    assert producer.flush(20) == 0
    return producer


def run(settings: Settings, *arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(dead_letters(settings), arguments)
    assert result.exit_code == code, result.output
    return result


def lines(result: Result) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in result.stdout.splitlines()]


def read(settings: Settings, topic: str) -> list[Message]:
    with TopicReader(settings) as reader:
        return [message for _, messages in reader.read(topic, {}, {}) for message in messages]


def arrived(settings: Settings) -> Counter[tuple[int, int]]:
    """Return the letters that the records on the input say they are of; each must stand where its agent belongs."""
    found: Counter[tuple[int, int]] = Counter()
    for message in read(settings, Topics.of(settings).feedback):
        headers: Any = message.headers()
        letter = replayed_from(headers)
        agent = orjson.loads(message.value() or b"")["agentId"]
        assert message.key() == agent.encode()
        assert message.partition() == partition_of(agent, PARTITIONS)
        assert letter is not None
        assert letter.topic == Topics.of(settings).dead_letter
        found[letter.partition, letter.offset] += 1
    return found


def once(count: int) -> Counter[tuple[int, int]]:
    """Return each of the first *count* letters, once."""
    return Counter((number % PARTITIONS, number // PARTITIONS) for number in range(count))


def ready(settings: Settings) -> tuple[ReplayProducer, list[Ready]]:
    """Return a replay that has fenced all others and looked at everything, and what it is about to send."""
    producer = ReplayProducer(settings)
    producer.fence()
    with TopicReader(settings) as reader:
        topic = LetterTopic(settings, reader)
        survey = topic.survey(lambda _: None, settled=True)
        judged = [JUDGE(letter) for letter in topic.letters(survey) if not letter.replayed]
    return producer, [one for one in judged if isinstance(one, Ready)]


# -- what is said --------------------------------------------------------------------------------------------------


def test_letters_are_listed_filtered_and_limited(ours: Settings) -> None:
    set_aside(ours, event(0), b"\xff\xfe", None, event(3))
    set_aside(ours, b"{", error="Invalid JSON")
    found = lines(run(ours, "list", "--json"))
    assert [(line["partition"], line["offset"]) for line in found] == [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0)]
    assert found[0] == {
        "partition": 0,
        "offset": 0,
        "error": "score: too much",
        "origin": {"topic": Topics.of(ours).feedback, "partition": 0, "offset": 0},
        "decidedAt": found[0]["decidedAt"],
        "replayed": False,
        "key": "key",
        "value": orjson.loads(event(0)),
    }
    assert found[0]["decidedAt"].startswith("20")
    assert (found[2]["value"], found[3]["valueBase64"], found[4]["value"]) == ("{", "//4=", None)
    assert [line["value"] for line in lines(run(ours, "list", "--json", "--error", "JSON"))] == ["{"]
    assert len(lines(run(ours, "list", "--json", "--limit", "2"))) == 2
    text = run(ours, "list", "--error", "JSON").stdout
    assert "0@2" in text
    assert "not replayed" in text
    assert r"\xff\xfe" in run(ours, "list").stdout


def test_what_can_be_repaired_is_sent_and_what_is_still_invalid_is_told(ours: Settings) -> None:
    set_aside(ours, event(0), b"{", event(2), event(3, rating="great"), event(4))
    before = run(ours, "replay", "--edit", REPAIR, "--dry-run", code=1)
    assert f"0@0  would be sent to partition {partition_of('a-0', PARTITIONS)}: " in before.stdout
    assert "1@0  not sent: it is no JSON" in before.stdout
    assert "0@1  not sent: rating: " in before.stdout
    assert (not arrived(ours), lines(run(ours, "list", "--json", "--replayed"))) == (True, [])

    *told, totals = lines(run(ours, "replay", "--edit", REPAIR, "--json", code=1))
    assert {(line["partition"], line["offset"]) for line in told} == {(0, 1), (1, 0)}
    assert totals == {
        "sendable": 3,
        "sent": 3,
        "not_sent": 2,
        "left_out": 0,
        "already_replayed": 0,
        "dry_run": False,
    }
    assert arrived(ours) == Counter([(0, 0), (2, 0), (1, 1)])
    sent = read(ours, Topics.of(ours).feedback)
    assert all(orjson.loads(message.value() or b"")["score"] == 5 for message in sent)
    headers: Any = sent[0].headers()
    assert [name for name, _ in headers] == ["trace", Header.REPLAYED_FROM]
    assert {(line["partition"], line["offset"]) for line in lines(run(ours, "list", "--json", "--replayed"))} == {
        (0, 0),
        (2, 0),
        (1, 1),
    }
    assert len(lines(run(ours, "list", "--json", "--not-replayed"))) == 2

    again = lines(run(ours, "replay", "--edit", REPAIR, "--json", code=1))[-1]
    assert (again["sent"], again["already_replayed"], again["not_sent"]) == (0, 3, 2)
    assert arrived(ours).total() == 3


def test_error_and_limit_say_which_letters_are_sent(ours: Settings) -> None:
    set_aside(ours, *(event(number) for number in range(4)))
    set_aside(ours, event(4, score=1), error="timestamp: lies in the future")
    assert lines(run(ours, "replay", "--error", "future", "--json"))[-1]["sent"] == 1
    limited = lines(run(ours, "replay", "--edit", REPAIR, "--limit", "3", "--json"))[-1]
    assert (limited["sent"], limited["already_replayed"]) == (3, 1)
    left_out = lines(run(ours, "replay", "--edit", "select(.score == 1)", "--json"))[-1]
    assert (left_out["sent"], left_out["left_out"]) == (0, 1)
    assert lines(run(ours, "replay", "--edit", REPAIR, "--json"))[-1]["sent"] == 1
    assert arrived(ours).total() == 5


def test_an_edited_file_is_sent_and_names_its_letters(ours: Settings, tmp_path: Path) -> None:
    set_aside(ours, *(event(number) for number in range(6)))
    listed = lines(run(ours, "list", "--json"))
    edited = tmp_path / "edited.jsonl"

    def write(*chosen: dict[str, Any]) -> tuple[str, str]:
        edited.write_bytes(b"\n".join(map(orjson.dumps, chosen)) + b"\n")
        return "--from-file", str(edited)

    def repaired(line: dict[str, Any], **more: Any) -> dict[str, Any]:
        return line | {"value": line["value"] | {"score": 1, **more}}

    unknown = {**repaired(listed[0]), "offset": 99}
    refused = run(ours, "replay", *write(repaired(listed[0]), unknown), code=1)
    assert "line 2: there is no such letter; nothing was sent" in refused.stderr
    twice = run(ours, "replay", *write(listed[0], listed[1], listed[0]), code=2)
    assert "line 3: letter 0@0 comes a second time" in twice.stderr
    assert not arrived(ours)

    # To another agent, and so perhaps another partition.
    first, second = repaired(listed[0], agentId="a-17"), repaired(listed[3])
    assert lines(run(ours, "replay", *write(first, second), "--json"))[-1]["sent"] == 2
    assert arrived(ours) == Counter([(0, 0), (1, 1)])
    third = lines(run(ours, "replay", *write(first, listed[1], repaired(listed[2])), "--json", code=1))
    assert (third[-1]["sent"], third[-1]["not_sent"], third[-1]["already_replayed"]) == (1, 1, 1)
    assert third[0]["error"].startswith("score: ")


def test_a_letter_of_the_largest_size_is_sent_and_a_larger_one_is_told(ours: Settings) -> None:
    padding = os.urandom(520_000).hex()
    set_aside(
        ours,
        event(0, padding=padding[:1_040_000], score=5),
        event(1, padding=padding + "0" * 8_000, score=5),
        message_max_bytes=2_000_000,
        transactional_id=f"{ours.app_id}-0",
    ).commit_transaction(20)
    result = run(ours, "replay", code=1)
    assert "1@0  not sent: too large: " in result.stdout
    assert arrived(ours) == Counter([(0, 0)])


# -- each at most once ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before the commit", "after the commit"])
def test_a_replay_that_is_killed_is_followed_by_another_that_sends_the_rest(ours: Settings, when: str) -> None:
    set_aside(ours, *(event(number) for number in range(10)))
    # It writes chunks of four letters, and hangs at the commit of the second one.
    script = f"""
import sys, time
from feedback_app.deadletters import commands, replaying
from feedback_app.settings import load_settings
commit, commits = replaying.ReplayProducer._commit, iter(range(9))
def hang(self):
    number = next(commits)
    if number == 0 or {when!r} == "after the commit":
        commit(self)
    if number == 1:
        print("hanging", flush=True)
        time.sleep(600)
replaying.ReplayProducer._commit = hang
replaying.CHUNK_LETTERS = 4
commands.dead_letters(load_settings())(["replay", "--edit", {REPAIR!r}])
"""
    killed = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, **dict(environment(ours))},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with killed:
        assert killed.stdout is not None
        assert killed.stdout.readline() == "hanging\n"
        killed.send_signal(signal.SIGKILL)
    sent_before = 4 if when == "before the commit" else 8
    totals = lines(run(ours, "replay", "--edit", REPAIR, "--json"))[-1]
    assert (totals["already_replayed"], totals["sent"]) == (sent_before, 10 - sent_before)
    assert arrived(ours) == once(10)


def test_a_replay_that_was_outrun_sends_nothing_any_more(ours: Settings) -> None:
    """Both look before either sends; and one has written its transaction, but not committed it."""
    set_aside(ours, *(event(number) for number in range(6)))
    looked, letters = ready(ours)
    written, the_same = ready(ours)
    written._write(the_same[:3])
    assert lines(run(ours, "replay", "--edit", REPAIR, "--json"))[-1]["sent"] == 6
    with pytest.raises(Fenced):
        written._commit()
    with pytest.raises(Fenced, match="another replay has started"):
        looked.replay(letters)
    with pytest.raises(Fenced, match="another replay has started"):
        looked.replay(letters)
    assert arrived(ours) == once(6)


def test_replays_at_the_same_time_send_each_letter_once(ours: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaying, "CHUNK_LETTERS", 3)
    set_aside(ours, *(event(number) for number in range(60)))
    start = threading.Barrier(3)

    def one() -> int:
        totals = Totals()
        producer = ReplayProducer(ours)
        start.wait(30)
        try:
            producer.fence()
            with TopicReader(ours) as reader:
                topic = LetterTopic(ours, reader)
                survey = topic.survey(lambda _: None, settled=True)
                with closing(topic.letters(survey)) as letters:  # before the reader, also when it was fenced
                    send = producer.replay
                    replay(letters, ALL, JUDGE, totals, limit=None, send=send, tell=print, report=lambda _: None)
        except Fenced:
            print("a later one goes on")
        return totals.sent

    with ThreadPoolExecutor(3) as pool:
        sent = sum(future.result() for future in [pool.submit(one) for _ in range(3)])
    rest = lines(run(ours, "replay", "--edit", REPAIR, "--json"))[-1]
    assert (rest["already_replayed"], rest["sent"]) == (sent, 60 - sent)
    assert sent >= 3
    assert arrived(ours) == once(60)


def test_a_mark_that_is_hidden_behind_a_workers_open_transaction_is_waited_for(ours: Settings) -> None:
    """Readers of committed records are held at the first record of an open transaction, and marks stand behind it.

    partition 0   letter  [open: letter ...   mark of the first letter
    """
    set_aside(ours, event(0))
    first, letters = ready(ours)
    worker = set_aside(ours, event(3), transactional_id=f"{ours.app_id}-0", retry_backoff_ms=10)
    first.replay(letters)
    assert not lines(run(ours, "list", "--json", "--replayed")), "it can't be seen yet"

    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(ready, ours)
        with pytest.raises(TimeoutError):
            second.result(2)
        worker.commit_transaction(20)
        _, left = second.result(60)
    assert [one.letter.id for one in left] == [(0, 1)]


def test_a_replay_that_fails_before_its_commit_leaves_nothing_open(
    ours: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C, say: workers could read nothing behind it until the broker aborts it, a minute later."""
    set_aside(ours, event(0))
    producer, letters = ready(ours)

    def interrupt(mark: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(replaying, "mark_headers", interrupt)
        with pytest.raises(KeyboardInterrupt):
            producer.replay(letters)
    topic, ends = Topics.of(ours).feedback, dict[int, int]()
    with TopicReader(ours) as reader:
        assert not list(reader.read(topic, {}, ends))
        assert ends == {partition: held.end for partition, held in reader.ranges(topic).items()}
    assert max(ends.values()) > 0
    producer.replay(letters)
    assert arrived(ours) == once(1)


def listed(settings: Settings) -> Iterator[DeadLetter]:
    with TopicReader(settings) as reader:
        topic = LetterTopic(settings, reader)
        yield from topic.letters(topic.survey(lambda _: None, settled=False))


def test_marks_are_no_letters_and_a_letter_that_comes_back_is_a_new_one(ours: Settings) -> None:
    set_aside(ours, event(0))
    run(ours, "replay", "--edit", REPAIR)
    set_aside(ours, event(0))
    assert [(letter.id, letter.replayed) for letter in listed(ours)] == [((0, 0), True), ((0, 3), False)]
