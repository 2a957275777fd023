"""The line that tells what a worker did in the last minute."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress

import pytest

from feedback_app.folding import Tally
from feedback_app.rates import Rates
from tests.unit.test_metrics import Worker, figures, watched, window

_END = 1_700_000_000_000


@pytest.fixture(autouse=True)
def _listen(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "feedback_app.rates")


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines since the last call, less the time that they are about."""
    lines = [re.sub(r"^in \d+ s: ", "", message) for message in caplog.messages]
    caplog.clear()
    return lines


def test_each_line_tells_what_was_done_since_the_last_one(caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker(figures(0), figures(3, lag={"feedback": 1, "repartition": 4}))
    metrics = watched(worker)
    rates = Rates(metrics.registry)
    metrics.folded(10, Tally(forwarded=1, late=2, invalid=3))
    metrics.transaction("committed", 0.1)
    metrics.transaction("aborted", 0.1)
    metrics.flushed([window(_END), window(_END, revision=1)], 2, _END)
    rates.tell()
    first = "4 records counted, 2 late, 3 dead letters, 1 forwarded; 2 windows closed; 1 transactions, 1 aborted"
    assert told(caplog) == [f"{first}; lag 12 in 2 partitions"]

    metrics.folded(5, Tally())
    metrics.transaction("committed", 0.1)
    worker.owned = [figures(0, lag={})]
    rates.tell()
    second = "5 records counted, 0 late, 0 dead letters, 0 forwarded; 0 windows closed; 1 transactions"
    assert told(caplog) == [f"{second}; lag 0 in 1 partitions"]


def test_nothing_is_told_of_nothing(caplog: pytest.LogCaptureFixture) -> None:
    metrics = watched(Worker(figures(0, lag={"feedback": 0})))
    rates = Rates(metrics.registry)
    rates.tell()
    metrics.folded(1, Tally())
    rates.tell()
    assert len(told(caplog)) == 1
    rates.tell()
    assert told(caplog) == []


def test_a_lag_of_which_nothing_is_counted_is_told(caplog: pytest.LogCaptureFixture) -> None:
    rates = Rates(watched(Worker(figures(0))).registry)
    for _ in range(2):
        rates.tell()
    nothing = "0 records counted, 0 late, 0 dead letters, 0 forwarded; 0 windows closed; 0 transactions"
    assert told(caplog) == 2 * [f"{nothing}; lag 7 in 1 partitions"]


def test_without_partitions_there_is_no_lag_to_be_told(caplog: pytest.LogCaptureFixture) -> None:
    metrics = watched(Worker())
    metrics.transaction("fenced", 0.1)
    Rates(metrics.registry).tell()
    (line,) = told(caplog)
    assert line.endswith("; 0 transactions, 1 fenced")


async def test_it_is_told_again_and_again(caplog: pytest.LogCaptureFixture) -> None:
    rates = Rates(watched(Worker(figures(0))).registry, every_s=0.001)
    with suppress(TimeoutError):
        async with asyncio.timeout(10):
            running = asyncio.ensure_future(rates.run())
            while len(caplog.messages) < 3:  # noqa: ASYNC110  # a log has no event to wait for
                await asyncio.sleep(0.001)
    running.cancel()
    assert len(caplog.messages) >= 3
