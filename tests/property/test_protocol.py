"""Folding and closing under crashes, aborts, zombies, wiped disks and a database that fails, against a recount.

produce   |--e--e--x--e----e--...            any order, some invalid, some on the wrong partition
fold         [    tx    ]   crash before/after the commit, abort and fold again
close           take due > upsert > (fold?) > tx    crash between any two, upsert refused or unanswered
                                  > fold and close in one tx
restart      same data dir, empty data dir, or a former owner that does not know that it is one
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from feedback_app.core.state import window_of
from feedback_app.errors import Fenced
from tests.property.world import PARTITIONS, SIZE_MS, TOPICS, Crash, World

_PARTITION = st.integers(0, PARTITIONS - 1)
_AGENT = st.sampled_from(["agent-0", "agent-1", "agent-2", "agent-3"])
_CRASH_IN_FOLD = st.sampled_from(["", "before commit", "after commit"])
_CRASH_IN_CLOSE = st.sampled_from(["", "before upsert", "after upsert", "after commit"])


class Traffic(NamedTuple):
    """Events that arrive on one partition, and how far its owner gets with them."""

    partition: int
    after_ms: int
    events: list[tuple[str, int, str, dict[str, object]]]
    invalid: bool
    folded: bool
    closed: bool


_EVENT = st.tuples(
    _AGENT,
    st.sampled_from([0, 0, 0, 50, 200, 900, 1_500, 2_500, 4_000, 20_000]),  # how far behind the clock
    st.sampled_from(["positive", "negative", "neutral"]),
    st.sampled_from([{}, {"score": 4}, {"tags": ["a", "$b.c"]}, {"score": 1, "comment": "no"}]),
)
#: Hypothesis leaves rules out at random, so each rule brings traffic of its own: without, most runs would see none.
_TRAFFIC = st.builds(
    Traffic,
    partition=_PARTITION,
    after_ms=st.sampled_from([0, 100, SIZE_MS, SIZE_MS, 3 * SIZE_MS]),
    events=st.lists(_EVENT, max_size=6),
    invalid=st.sampled_from([False, False, False, True]),
    folded=st.booleans(),
    closed=st.booleans(),
)


class Protocol(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="protocol-"))
        self.world = World(self.folder)
        self.events = 0

    def _arrives(self, traffic: Traffic) -> None:
        self.world.clock.advance(traffic.after_ms)
        for agent, behind, rating, extra in traffic.events:
            self._produce(traffic.partition, agent, self.world.clock.now_ms() - behind, rating, extra)
        if traffic.invalid:
            self.world.produce(traffic.partition, None)
        if traffic.folded:
            self._fold(traffic.partition, TOPICS.feedback, 20, "")
        if traffic.closed:
            self._close(traffic.partition, 3, "", fold="")

    def _produce(self, partition: int, agent: str, timestamp: int, rating: str, extra: dict[str, object]) -> None:
        self.events += 1
        event = {"feedbackId": f"f{self.events}", "agentId": agent, "userId": "u", "rating": rating, **extra}
        self.world.produce(partition, {**event, "timestamp": timestamp})

    def _fold(self, partition: int, topic: str, limit: int, crash: str) -> None:
        try:
            self.world.owners[partition].fold(topic, limit, crash)
        except Crash:
            self.world.restart(partition, wiped=False)

    def _close(self, partition: int, limit: int, crash: str, *, fold: str) -> None:
        owner = self.world.owners[partition]
        try:
            if crash == "before upsert":
                owner.state.take_due(limit)
                raise Crash
            windows, closing = owner.begin_close(limit)
            if crash == "after upsert":
                raise Crash
            if fold:
                for due in windows[:1]:
                    window = window_of(due.key)
                    self._produce(partition, window.agent_id, window.start, "neutral", {})
                if fold == "takes it along":
                    owner.fold(TOPICS.feedback, 50, crash, closing)
                else:
                    owner.fold(TOPICS.feedback, 50)
            owner.end_close(windows, closing, crash)
        except Crash:
            self.world.restart(partition, wiped=False)

    @rule(
        traffic=_TRAFFIC,
        partition=_PARTITION,
        topic=st.sampled_from(TOPICS.sources),
        limit=st.integers(1, 7),
        crash=_CRASH_IN_FOLD,
    )
    def fold(self, traffic: Traffic, partition: int, topic: str, limit: int, crash: str) -> None:
        self._arrives(traffic)
        self._fold(partition, topic, limit, crash)

    @rule(
        traffic=_TRAFFIC,
        partition=_PARTITION,
        limit=st.integers(1, 4),
        crash=_CRASH_IN_CLOSE,
        fold=st.sampled_from(["", "between", "takes it along", "takes it along"]),
    )
    def close(self, traffic: Traffic, partition: int, limit: int, crash: str, fold: str) -> None:
        self._arrives(traffic)
        self._close(partition, limit, crash, fold=fold)

    @rule(traffic=_TRAFFIC, partition=_PARTITION)
    def silence(self, traffic: Traffic, partition: int) -> None:
        self._arrives(traffic)
        self.world.owners[partition].follow_the_clock()

    @rule(traffic=_TRAFFIC, partition=_PARTITION, wiped=st.booleans())
    def restart(self, traffic: Traffic, partition: int, wiped: bool) -> None:
        self._arrives(traffic)
        self.world.restart(partition, wiped=wiped)

    @rule(traffic=_TRAFFIC, partition=_PARTITION, limit=st.integers(1, 5), closes=st.booleans())
    def zombie(self, traffic: Traffic, partition: int, limit: int, closes: bool) -> None:
        """The former owner wakes up after others have worked on, and goes on: with a pass, or with a fold."""
        former = self.world.zombie(partition)
        self._arrives(traffic)
        try:
            if closes:
                windows, closing = former.begin_close(limit)
                if closing.stored:
                    with pytest.raises(Fenced):
                        former.end_close(windows, closing)
            elif self.world.broker.logs[TOPICS.feedback, partition][former.state.record.offsets.get("feedback", 0) :]:
                with pytest.raises(Fenced):
                    former.fold(TOPICS.feedback, limit)
        finally:
            former.release()

    @rule(traffic=_TRAFFIC, down=st.booleans())
    def database_goes_and_comes(self, traffic: Traffic, down: bool) -> None:
        self._arrives(traffic)
        self.world.database.down = down

    @rule(traffic=_TRAFFIC, agent=_AGENT)
    def database_refuses(self, traffic: Traffic, agent: str) -> None:
        self._arrives(traffic)
        start = self.world.clock.now_ms() // SIZE_MS * SIZE_MS
        self.world.database.refused = {f"{agent}|{start - age}|{SIZE_MS}" for age in range(0, 4 * SIZE_MS, SIZE_MS)}

    @rule(traffic=_TRAFFIC, times=st.integers(1, 2))
    def broker_aborts(self, traffic: Traffic, times: int) -> None:
        self._arrives(traffic)
        self.world.broker.aborting = times

    def teardown(self) -> None:
        try:
            self.world.drain()
            self.world.check()
        finally:
            self.world.close()
            shutil.rmtree(self.folder)


@pytest.mark.timeout(600)  # it opens thousands of databases, and a busy disk makes each of them slow
def test_every_record_ends_in_exactly_one_place() -> None:
    run_state_machine_as_test(
        Protocol,
        settings=hypothesis_settings(max_examples=100, stateful_step_count=30, deadline=None, print_blob=True),
    )
