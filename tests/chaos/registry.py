"""The list of scenarios."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tests.chaos.arena import Arena
from tests.chaos.judging import Outcome

#: What happens. It may return an outcome that was compared before the end.
Play = Callable[[Arena], Outcome | None]


@dataclass(frozen=True, slots=True)
class Scenario:
    """Something that happens to workers while traffic flows.

    Attributes:
        name: how it is asked for, and reported.
        play: does it. What follows (the end of the traffic, the comparison) is the same for all.
        own_broker: whether it needs a Kafka of its own, to be killed.
        quick: whether it belongs to the short form.
    """

    name: str
    play: Play
    own_broker: bool
    quick: bool


SCENARIOS: Final[dict[str, Scenario]] = {}


def scenario(name: str, *, own_broker: bool = False, quick: bool = False) -> Callable[[Play], Play]:
    """Register a scenario."""

    def register(play: Play) -> Play:
        assert name not in SCENARIOS, name
        SCENARIOS[name] = Scenario(name, play, own_broker, quick)
        return play

    return register
