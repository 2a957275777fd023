"""Who takes part, and how each is started."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from benchmarks.architectures.v1 import BATCH

_PACKAGE: Final = "benchmarks.architectures"


@dataclass(frozen=True, slots=True)
class Architecture:
    """One of the four.

    Attributes:
        name: in results.
        what: for people.
        module: what is run; empty for this application's own worker.
        members: how many processes share the input.
        settings: its own, beyond those that all have.
        shares_redis: it needs Redis.
        slow: its calls to the database follow from its events alone, and are so many that it gets less input.
    """

    name: str
    what: str
    module: str
    members: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)
    shares_redis: bool = False
    slow: bool = False

    @property
    def ours(self) -> bool:
        return not self.module

    @property
    def command(self) -> Sequence[str]:
        if self.ours:
            return (sys.executable, "-m", "faust", "-A", "feedback_app", "worker", "-l", "warn")
        return (sys.executable, "-m", f"{_PACKAGE}.{self.module}")


#: The seed's recommended settings; this application has defaults of its own.
_BATCHES: Final = {"batch_size": 50, "max_batches": 10_000}

V1: Final = Architecture("v1", f"v1: batches of {BATCH} for each agent, a query and a write an item", "v1", slow=True)
V2: Final = Architecture("v2", "v2: batches of 50, one bulk write a flush, hybrid", "v2", settings=_BATCHES)
REDIS: Final = Architecture(
    "redis", "Redis: the same batches, shared", "with_redis", settings=_BATCHES, shares_redis=True
)
REDIS_2: Final = Architecture(
    "redis_2", "Redis, two instances", "with_redis", members=2, settings=_BATCHES, shares_redis=True
)
OURS: Final = Architecture("kafka_native", "Kafka-native: this application", "")
OURS_2: Final = Architecture("kafka_native_2", "Kafka-native, two workers", "", members=2)

ARCHITECTURES: Final = (V1, V2, REDIS, REDIS_2, OURS, OURS_2)

#: v2's other modes, for what they cost: the seed recommends hybrid or global.
V2_GLOBAL: Final = Architecture(
    "v2_global",
    "v2, mode global: one batch of 50 for all",
    "v2",
    settings={**_BATCHES, "batching_mode": "global"},
    slow=True,
)
V2_AGENT: Final = Architecture(
    "v2_agent",
    "v2, mode agent: a bulk write a batch",
    "v2",
    settings={**_BATCHES, "batching_mode": "agent"},
)
