"""Late and dead letters: each must belong to one record of the input, and be where and as that record says."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from feedback_app.core.events import Headers, Origin
from feedback_app.core.headers import Header, origin_of
from feedback_app.cutting import cut
from feedback_app.verification.differences import Differences


class InputRecord(NamedTuple):
    """The parts of an input record that only matter when it was set aside, or is a dead letter that was replayed.

    *appended_at* is the broker's time.
    """

    key: bytes | None
    value: bytes | None
    appended_at: int | None
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Letter:
    """A record on the late or the dead-letter topic; key and value are kept as hashes."""

    origin: Origin
    partition: int
    dead: bool
    error: str
    key_hash: int
    value_hash: int

    @classmethod
    def read(
        cls, partition: int, key: bytes | None, value: bytes | None, headers: Headers, *, dead: bool
    ) -> Self | None:
        """Read a record of either topic; None when it does not say where it comes from."""
        origin = origin_of(headers)
        if origin is None:
            return None
        error = (dict(headers).get(Header.ERROR) or b"").decode(errors="replace")
        return cls(origin, partition, dead, error, hash(key), hash(value))

    @property
    def topic(self) -> str:
        return "dead-letter" if self.dead else "late"

    @property
    def lies_in_future(self) -> bool:
        """Whether the worker gave the event's time as the reason: the one by which a valid event is a dead letter."""
        return self.dead and self.error.startswith("timestamp") and "future" in self.error


class Letters:
    """All late and dead letters, by the record that they are of."""

    def __init__(self, differences: Differences) -> None:
        self._differences = differences
        self._by_partition: dict[tuple[str, int], dict[int, list[Letter]]] = {}

    def add(self, letter: Letter) -> None:
        topic, partition, offset = letter.origin
        self._by_partition.setdefault((topic, partition), {}).setdefault(offset, []).append(letter)

    def of(self, topic: str, partition: int) -> dict[int, list[Letter]]:
        """Return the letters of one input partition by offset; whoever finds a record of theirs takes them out."""
        return self._by_partition.get((topic, partition), {})

    def left(self) -> Iterator[Letter]:
        """Yield the letters that nobody has taken out."""
        for by_offset in self._by_partition.values():
            for letters in by_offset.values():
                yield from letters

    def check(
        self, origin: Origin, letters: Sequence[Letter], record: InputRecord, *, home: int, keeps_key: bool
    ) -> None:
        """Check that a record was set aside once, where it was decided on, and as it came, or as it was cut.

        Args:
            home: the partition that decided.
            keeps_key: whether the record got there with its own key; one that is forwarded gets its agent's.
        """
        first, *others = letters
        for other in others:
            self._differences.extra(f"{name(origin)} is in {first.topic}, and again in {other.topic}")
        if first.partition != home:
            self._differences.different(f"{name(origin)} is in {first.topic}/{first.partition} instead of /{home}")
        kept = cut(record.key, record.value, ())
        if first.value_hash != hash(kept.value) or (keeps_key and first.key_hash != hash(kept.key)):
            self._differences.different(f"{name(origin)} is in {first.topic} with another key or value")


def name(origin: Origin) -> str:
    """Return how a record is named in a difference."""
    return f"{origin.topic}/{origin.partition}@{origin.offset}"
