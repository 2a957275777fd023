"""Where a page of dead letters ends: by partition, the offset below which letters are left."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_OFFSETS: Final = 1 << 63
_PARTITIONS: Final = 1 << 31
#: All that a cursor of any cluster may take.
_LONGEST: Final = 1 << 16
_PART: Final = re.compile(r"([0-9]{1,10})-([0-9]{1,19})", re.ASCII)


def encode(left: Mapping[int, int]) -> str | None:
    """Return the cursor; None where nothing is left."""
    return ".".join(f"{partition}-{offset}" for partition, offset in sorted(left.items())) or None


def decode(cursor: str) -> dict[int, int]:
    """Return what a cursor says.

    Raises:
        ValueError: it is none.
    """
    left: dict[int, int] = {}
    for part in cursor.split(".") if len(cursor) <= _LONGEST else [""]:
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError("not a cursor")
        partition, offset = int(match[1]), int(match[2])
        if partition in left or partition >= _PARTITIONS or offset >= _OFFSETS:
            raise ValueError("not a cursor")
        left[partition] = offset
    return left
