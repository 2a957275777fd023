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
    """An answer that is asked for, or was; *before* is the one that is shown meanwhile."""

    task: asyncio.Task[_T]
    before: asyncio.Task[_T] | None
    fresh_until: float | None = None

    def is_fresh(self, now: float) -> bool:
        return self.fresh_until is None or now < self.fresh_until


class Shared(Generic[_T]):
    """Asks once, keeps the answer, or that there was none, for a while; bounded.

    Args:
        fresh_s: how long an answer is kept.
        stale_s: how much longer it is shown while a new one is being asked for. On a busy event loop each step of
            asking waits for tens of milliseconds: who looks again and again never does.
        share: the part of the time that asking may take at most: what took long is kept for longer.
        most: how many different questions are kept, and asked at once.
    """

    def __init__(
        self,
        fresh_s: float,
        *,
        stale_s: float = 0.0,
        share: float = 1.0,
        most: int = _MOST,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fresh_s = fresh_s
        self._stale_s = stale_s
        self._share = share
        self._most = most
        self._monotonic = monotonic
        self._answers: dict[Hashable, _Answer[_T]] = {}

    async def get(self, question: Hashable, ask: Callable[[], Awaitable[_T]], *, patient: bool = False) -> _T:
        """Return what *ask* returns, or has returned lately for the same *question*.

        Args:
            patient: rather wait for a new answer than be shown an old one.

        Raises:
            TooMany: nobody was asked.
            Exception: whatever *ask* raises, or has raised lately.
        """
        now = self._monotonic()
        found = self._answers.get(question)
        if found is None or not found.is_fresh(now):
            self._make_room(now)
            found = self._answers[question] = self._ask(ask, self._shown_meanwhile(found, now))
        if found.task.done():
            return found.task.result()
        if found.before is not None and not patient:
            return found.before.result()
        # Whoever goes away must not take the answer from the others.
        return await asyncio.shield(found.task)

    def _shown_meanwhile(self, found: _Answer[_T] | None, now: float) -> asyncio.Task[_T] | None:
        if found is None or found.task.cancelled() or found.task.exception() is not None:
            return None
        return found.task if now < (found.fresh_until or 0.0) + self._stale_s else None

    def _ask(self, ask: Callable[[], Awaitable[_T]], before: asyncio.Task[_T] | None) -> _Answer[_T]:
        async def asking() -> _T:
            return await ask()

        answer = _Answer(asyncio.create_task(asking()), before)
        began = self._monotonic()

        def done(task: asyncio.Task[Any]) -> None:
            ended = self._monotonic()
            answer.before = None
            answer.fresh_until = ended + max(self._fresh_s, (ended - began) / self._share)
            if not task.cancelled():
                task.exception()  # is told to those who are still there

        answer.task.add_done_callback(done)
        return answer

    def _make_room(self, now: float) -> None:
        """Forget what is old, and the oldest of the rest where there is still too much."""
        ended = [(question, answer.fresh_until) for question, answer in self._answers.items() if answer.fresh_until]
        for question, fresh_until in ended:
            if now >= fresh_until + self._stale_s:
                del self._answers[question]
        left = [question for question, _ in ended if question in self._answers]
        if len(self._answers) >= self._most:
            if not left:
                raise TooMany
            del self._answers[left[0]]
