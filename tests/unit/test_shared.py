"""Answers that are shared."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from feedback_app.web.shared import Shared, TooMany


class Source:
    """Is asked, and answers with how often it was; slowly, while *gate* is closed."""

    def __init__(self) -> None:
        self.asked = 0
        self.now = 0.0
        self.takes = 0.0
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def __call__(self) -> int:
        self.asked += 1
        await self.gate.wait()
        self.now += self.takes
        if self.error:
            raise self.error
        return self.asked

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def source() -> Source:
    return Source()


async def settled(*awaited: Awaitable[object]) -> list[object]:
    return list(await asyncio.gather(*awaited, return_exceptions=True))


async def test_all_who_ask_within_a_moment_get_one_answer(source: Source) -> None:
    shared = Shared[int](1.0, monotonic=source.monotonic)
    assert await asyncio.gather(*(shared.get("it", source) for _ in range(50))) == [1] * 50
    source.now = 0.9
    assert await shared.get("it", source) == 1
    source.now = 1.0
    assert await shared.get("it", source) == 2
    assert await shared.get("something else", source) == 3


async def test_an_error_is_an_answer_too(source: Source) -> None:
    shared = Shared[int](1.0, monotonic=source.monotonic)
    source.error = LookupError("away")
    assert [type(each) for each in await settled(*(shared.get("it", source) for _ in range(3)))] == [LookupError] * 3
    assert source.asked == 1
    source.error, source.now = None, 1.0
    assert await shared.get("it", source) == 2


async def test_whoever_goes_away_takes_nothing_from_the_others(source: Source) -> None:
    shared = Shared[int](1.0, monotonic=source.monotonic)
    source.gate.clear()
    first, second = (asyncio.ensure_future(shared.get("it", source)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await settled(first)
    source.gate.set()
    assert await second == 1


async def test_what_took_long_is_kept_for_longer(source: Source) -> None:
    shared = Shared[int](1.0, share=0.1, monotonic=source.monotonic)
    source.takes = 2.0
    assert await shared.get("it", source) == 1
    source.now = 21.9
    assert await shared.get("it", source) == 1
    source.now = 22.1
    assert await shared.get("it", source) == 2


async def test_few_answers_are_kept_and_few_are_asked_for_at_once(source: Source) -> None:
    shared = Shared[int](1.0, most=3, monotonic=source.monotonic)
    asked: Callable[[int], Awaitable[int]] = lambda number: shared.get(number, source)  # noqa: E731
    assert [await asked(number) for number in range(10)] == list(range(1, 11))
    assert len(shared._answers) == 3
    assert await asked(9) == 10
    source.gate.clear()
    waiting = [asyncio.ensure_future(asked(number)) for number in range(100, 103)]
    await asyncio.sleep(0)
    with pytest.raises(TooMany):
        await asked(200)
    source.gate.set()
    await asyncio.gather(*waiting)
    assert source.asked == 13
    assert await asked(200) == 14
