"""One answer for all who ask for the same within a moment: what it costs does not grow with those who watch."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

_T = TypeVar("_T")

_MOST: Final = 64


class TooMany(Exception):
    """As many different questions as there may be are being answered."""


@dataclass(slots=True)
class _Answer(Generic[_T]):
    task: asyncio.Task[_T]
    fresh_until: float | None = None


class Shared(Generic[_T]):
    """Asks once, keeps the answer, or that there was none, for a while; bounded.

    Args:
        fresh_s: how long an answer is kept.
        share: the part of the time that asking may take at most: what took long is kept for longer.
        most: how many different questions are kept, and asked at once.
    """

    def __init__(
        self,
        fresh_s: float,
        *,
        share: float = 1.0,
        most: int = _MOST,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fresh_s = fresh_s
        self._share = share
        self._most = most
        self._monotonic = monotonic
        self._answers: dict[Hashable, _Answer[_T]] = {}

    async def get(self, question: Hashable, ask: Callable[[], Awaitable[_T]]) -> _T:
        """Return what *ask* returns, or has returned lately for the same *question*.

        Raises:
            TooMany: nobody was asked.
            Exception: whatever *ask* raises, or has raised lately.
        """
        found = self._answers.get(question)
        if found is None or (found.fresh_until is not None and self._monotonic() >= found.fresh_until):
            self._make_room()
            found = self._answers[question] = self._ask(ask)
        # Whoever goes away must not take the answer from the others.
        return await asyncio.shield(found.task)

    def _ask(self, ask: Callable[[], Awaitable[_T]]) -> _Answer[_T]:
        async def asking() -> _T:
            return await ask()

        answer = _Answer(asyncio.create_task(asking()))
        began = self._monotonic()

        def done(task: asyncio.Task[Any]) -> None:
            ended = self._monotonic()
            answer.fresh_until = ended + max(self._fresh_s, (ended - began) / self._share)
            if not task.cancelled():
                task.exception()  # is told to those who are still there

        answer.task.add_done_callback(done)
        return answer

    def _make_room(self) -> None:
        """Forget what is old, and the oldest of the rest where there is still too much."""
        now = self._monotonic()
        ended = [(question, answer.fresh_until) for question, answer in self._answers.items() if answer.fresh_until]
        for question, fresh_until in ended:
            if now >= fresh_until:
                del self._answers[question]
        fresh = [question for question, _ in ended if question in self._answers]
        if len(self._answers) >= self._most:
            if not fresh:
                raise TooMany
            del self._answers[fresh[0]]
