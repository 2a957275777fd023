"""Trying again: how long it waits, what it says, when it ends. No test sleeps."""

from __future__ import annotations

import asyncio
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback_app.retry import BASE_S, CAP_S, backoff, retrying
from feedback_app.sinks import SinkUnavailable


class Flaky:
    """An operation that fails a number of times, and a clock that notes how long it was to wait."""

    def __init__(self, failures: int) -> None:
        self.tries = 0
        self.waits: list[float] = []
        self.errors: list[str] = []
        self._failures = failures

    async def operation(self) -> str:
        self.tries += 1
        if self.tries <= self._failures:
            raise SinkUnavailable(f"failure {self.tries}")
        return "done"

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    def note(self, error: SinkUnavailable) -> None:
        self.errors.append(str(error))

    async def run(self) -> str:
        return await retrying(self.operation, on_retry=self.note, sleep=self.sleep, jitter=lambda: 1.0)


@given(st.integers(min_value=1, max_value=10**9), st.floats(min_value=0, max_value=1))
def test_a_wait_is_within_its_bounds(failures: int, jitter: float) -> None:
    assert 0 <= backoff(failures, lambda: jitter) <= CAP_S


def test_waits_double_up_to_the_cap() -> None:
    assert [backoff(failures, lambda: 1.0) for failures in (1, 2, 3, 9, 10, 10_000)] == [
        BASE_S,
        2 * BASE_S,
        4 * BASE_S,
        256 * BASE_S,
        CAP_S,
        CAP_S,
    ]


def test_the_jitter_is_full() -> None:
    assert backoff(10, lambda: 0.0) == 0
    assert backoff(10, lambda: 0.5) == CAP_S / 2
    assert len({backoff(10) for _ in range(10)}) > 1


async def test_success_is_returned_at_once() -> None:
    flaky = Flaky(failures=0)
    assert await flaky.run() == "done"
    assert (flaky.tries, flaky.waits, flaky.errors) == (1, [], [])


async def test_it_goes_on_until_it_succeeds() -> None:
    flaky = Flaky(failures=1_000)
    assert await flaky.run() == "done"
    assert flaky.tries == 1_001
    assert flaky.waits == [backoff(failures, lambda: 1.0) for failures in range(1, 1_001)]
    assert flaky.errors == [f"failure {number}" for number in range(1, 1_001)]


async def test_a_lambda_will_do() -> None:
    async def identity(value: int) -> int:
        return value

    assert await retrying(lambda: identity(7)) == 7


async def test_the_log_gets_a_line_at_growing_intervals(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "feedback_app.retry"):
        await Flaky(failures=100).run()
    *failures, success = caplog.messages
    assert [message.partition("failure ")[2].partition(";")[0] for message in failures] == [
        *("1", "2", "4", "8", "16", "32", "64")
    ]
    assert success == "the database takes writes again, after 100 failed tries"


async def test_success_is_no_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "feedback_app.retry"):
        await Flaky(failures=0).run()
    assert not caplog.messages


async def test_any_other_error_ends_it() -> None:
    flaky = Flaky(failures=0)

    async def broken() -> None:
        flaky.tries += 1
        raise KeyError("_id")

    with pytest.raises(KeyError, match="_id"):
        await retrying(broken, on_retry=flaky.note, sleep=flaky.sleep)
    assert (flaky.tries, flaky.waits, flaky.errors) == (1, [], [])


@pytest.mark.parametrize("where", ["in the operation", "in the wait"])
async def test_cancelling_ends_it(where: str) -> None:
    reached = asyncio.Event()

    async def hang(_seconds: float = 0.0) -> None:
        reached.set()
        await asyncio.Event().wait()

    async def fail() -> None:
        raise SinkUnavailable

    task = asyncio.create_task(retrying(hang) if where == "in the operation" else retrying(fail, sleep=hang))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
