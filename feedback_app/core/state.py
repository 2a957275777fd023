"""The keys and values that a partition's state is stored under, in the changelog and in RocksDB alike.

A state key is a prefix, the window's end and size (8 bytes each, big endian, ms) and the agent's id. So the store's own
key order is the close schedule: the due windows are a range scan, and there is nothing to keep in memory or to rebuild.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

import orjson

from feedback_app.core.windows import Window

OPEN: Final = b"o"
CLOSED: Final = b"c"
PARTITION_RECORD_KEY: Final = b"p"

#: A time before every event; a new partition's watermark and floor.
BEGINNING: Final = -1

_TIMES: Final = struct.Struct(">QQ")
_END: Final = struct.Struct(">Q")
_AGENT_AT: Final = 17
#: Of the partition record: 2 added the ids of the source topics.
_VERSION: Final = 2
_FIRST_VERSION: Final = 1

#: What one transaction puts (bytes) or deletes (None).
Changes = dict[bytes, bytes | None]


def window_key(prefix: bytes, agent_id: str, end: int, size: int) -> bytes:
    """Return the key of a window, under :data:`OPEN` or :data:`CLOSED`."""
    return prefix + _TIMES.pack(end, size) + agent_id.encode()


def window_of(key: bytes) -> Window:
    """Return the window that a :func:`window_key` names."""
    end, size = _TIMES.unpack_from(key, 1)
    return Window(agent_of(key), end - size, size)


def agent_of(key: bytes) -> str:
    """Return the agent of the window that *key* names."""
    return agent_bytes_of(key).decode()


def agent_bytes_of(key: bytes) -> bytes:
    """Return the agent of the window that *key* names, in UTF-8."""
    return key[_AGENT_AT:]


def closed_key(open_key: bytes) -> bytes:
    """Return the key that the window of *open_key* has once it is closed."""
    return CLOSED + open_key[1:]


def ends_after(prefix: bytes, end: int) -> bytes:
    """Return the lowest key, under *prefix*, of any window that ends after *end*."""
    return prefix + _END.pack(max(end, -1) + 1)


def end_of(key: bytes) -> int:
    """Return the end of the window that *key* names."""
    end: int = _END.unpack_from(key, 1)[0]
    return end


@dataclass(frozen=True, slots=True)
class SizeChange:
    """From these source offsets on, windows of *size* are counted."""

    size: int
    offsets: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class PartitionRecord:
    """What a partition's owner must know besides the windows; written in every transaction.

    Attributes:
        watermark: every window that ends at or below it is due; never goes back.
        floor: an event whose window ends at or below it is late for good; never goes back.
        offsets: the next offset to read of each source topic.
        history: which window size was used from which offsets on, oldest first.
        topic_ids: the ids of the source topics that the offsets are of; another id means that the topic was made anew.
    """

    watermark: int = BEGINNING
    floor: int = BEGINNING
    offsets: Mapping[str, int] = field(default_factory=dict)
    history: tuple[SizeChange, ...] = ()
    topic_ids: Mapping[str, str] = field(default_factory=dict)

    def with_size(self, size: int) -> Self:
        """Return the record that says that windows of *size* are counted from here on."""
        if self.history and self.history[-1].size == size:
            return self
        return replace(self, history=(*self.history, SizeChange(size, dict(self.offsets))))

    def encode(self) -> bytes:
        return orjson.dumps(
            {
                "version": _VERSION,
                "watermark": self.watermark,
                "floor": self.floor,
                "offsets": self.offsets,
                "history": [{"size": change.size, "offsets": change.offsets} for change in self.history],
                "topicIds": self.topic_ids,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read the stored form.

        Raises:
            ValueError: it was written by a version of the application that this one does not know.
        """
        stored: dict[str, Any] = orjson.loads(data)
        if not _FIRST_VERSION <= stored["version"] <= _VERSION:
            raise ValueError(f"state format {stored['version']} is unknown; this version reads format {_VERSION}")
        return cls(
            watermark=stored["watermark"],
            floor=stored["floor"],
            offsets=stored["offsets"],
            history=tuple(SizeChange(change["size"], change["offsets"]) for change in stored["history"]),
            topic_ids=stored.get("topicIds", {}),
        )
