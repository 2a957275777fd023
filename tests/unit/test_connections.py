"""Questions to the broker: asked again when the answer is "not yet", and not for ever."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from confluent_kafka import KafkaError, KafkaException

from feedback_app.connections import ANSWER_S, answered


class Broker:
    """Fails with *failures* first, each of which takes *seconds* on a clock of its own."""

    def __init__(self, seconds: float, *failures: int) -> None:
        self.asked = 0
        self.now = 0.0
        self._seconds = seconds
        self._failures = failures

    def ask(self, what: str) -> str:
        self.asked += 1
        if self.asked <= len(self._failures):
            self.now += self._seconds
            raise KafkaException(KafkaError(self._failures[self.asked - 1]))
        return f"the answer to {what}"


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Broker]:
    def made(seconds: float, *failures: int) -> Broker:
        broker = Broker(seconds, *failures)
        monkeypatch.setattr(time, "monotonic", lambda: broker.now)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        return broker

    return made


def test_a_question_is_asked_again_while_the_answer_is_not_yet(broker: Callable[..., Broker]) -> None:
    asked = broker(ANSWER_S / 4, KafkaError.NOT_COORDINATOR, KafkaError._TRANSPORT, KafkaError._TIMED_OUT)
    assert answered(asked.ask)("it") == "the answer to it"
    assert asked.asked == 4


# frozen     |ask ........ a minute ........ timed out|ask: answered
def test_a_question_during_which_the_process_was_frozen_is_asked_again(broker: Callable[..., Broker]) -> None:
    asked = broker(60, KafkaError._TIMED_OUT)
    assert answered(asked.ask)("it") == "the answer to it"


@pytest.mark.parametrize(("seconds", "times"), [(ANSWER_S, 2), (ANSWER_S / 2, 2), (ANSWER_S / 4, 4)])
def test_a_broker_that_does_not_answer_is_not_asked_for_ever(
    broker: Callable[..., Broker], seconds: float, times: int
) -> None:
    asked = broker(seconds, *[KafkaError._TIMED_OUT] * 9)
    with pytest.raises(KafkaException):
        answered(asked.ask)("it")
    assert asked.asked == times


def test_what_does_not_pass_is_asked_once(broker: Callable[..., Broker]) -> None:
    asked = broker(0.1, KafkaError.TOPIC_AUTHORIZATION_FAILED)
    with pytest.raises(KafkaException):
        answered(asked.ask)("it")
    assert asked.asked == 1
