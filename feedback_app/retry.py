"""Trying again for as long as the database does not answer: exponential backoff with full jitter."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from random import random
from typing import Final, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type

from feedback_app.sinks import SinkUnavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")

BASE_S: Final = 0.1
CAP_S: Final = 30.0

#: Enough doublings to pass the cap; more would only make huge numbers.
_DOUBLINGS: Final = 16


def backoff(failures: int, jitter: Callable[[], float] = random) -> float:
    """Return how many seconds to wait after that many *failures* in a row (at least one).

    Anything up to ``BASE_S``, doubled with every failure, up to ``CAP_S``: workers that lost the database at the same
    moment do not come back at the same moment.

    Args:
        failures: how many there have been.
        jitter: returns a number from 0 to 1.
    """
    return jitter() * min(CAP_S, BASE_S * 2.0 ** min(failures - 1, _DOUBLINGS))


async def retrying(
    operation: Callable[[], Awaitable[T]],
    *,
    on_retry: Callable[[SinkUnavailable], object] | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    jitter: Callable[[], float] = random,
) -> T:
    """Call *operation* until it does not raise ``SinkUnavailable``, and return what it returns. There is no last try.

    The first failure is logged, then the second, fourth, eighth and so on: an outage of a day takes a dozen lines.

    Args:
        operation: called anew for every try; must be safe to repeat.
        on_retry: called with every ``SinkUnavailable``, before the wait that follows it.
        sleep: waits between tries.
        jitter: see :func:`backoff`.

    Raises:
        CancelledError: the task was cancelled, in a try or between two.
        Exception: whatever else *operation* raises.
    """

    # Tenacity awaits coroutine functions only; a lambda that returns a coroutine is none.
    async def attempt() -> T:
        return await operation()

    failures = 0

    def note(state: RetryCallState) -> None:
        nonlocal failures
        failures += 1
        error = state.outcome.exception() if state.outcome else None
        if not isinstance(error, SinkUnavailable):
            return
        if on_retry is not None:
            on_retry(error)
        if failures.bit_count() == 1:
            logger.warning(
                "the database does not take a write, for %.0f s now (%s tries so far): %s; trying again",
                state.seconds_since_start or 0.0,
                failures,
                error,
            )

    tries = AsyncRetrying(
        sleep=sleep,
        wait=lambda state: backoff(state.attempt_number, jitter),
        retry=retry_if_exception_type(SinkUnavailable),
        before_sleep=note,
        reraise=True,
    )
    result: T = await tries(attempt)
    if failures:
        logger.info("the database takes writes again, after %s failed tries", failures)
    return result
