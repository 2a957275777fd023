"""Which partition an agent belongs to: Kafka's default partitioner, as Java clients compute it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache

_MASK = 0xFFFFFFFF
_SEED = 0x9747B28C
_M = 0x5BD1E995

#: An agent costs one murmur2 in pure Python (a microsecond or two) once; ids are 128 characters at most, so the cache
#: stays below some ten megabytes however many agents there are.
_CACHED_AGENTS = 100_000


@lru_cache(256)
def _words(number: int) -> Callable[[bytes], tuple[int, ...]]:
    """Return what reads so many 32-bit words, as they are in memory on most machines."""
    return struct.Struct(f"<{number}I").unpack_from


def murmur2(data: bytes) -> int:
    """Return the 32-bit murmur2 hash of *data*, unsigned, with the seed that Kafka uses."""
    length = len(data)
    value = _SEED ^ length
    # A product is cut to 32 bits where it is needed next, and not before: every step costs.
    for word in _words(length >> 2)(data):
        mixed = word * _M & _MASK
        value = (value * _M ^ (mixed ^ mixed >> 24) * _M) & _MASK
    if length & 3:
        value = (value ^ int.from_bytes(data[length & ~3 :], "little")) * _M & _MASK
    value = (value ^ value >> 13) * _M & _MASK
    return value ^ (value >> 15)


def partition_of(agent_id: str, partitions: int) -> int:
    """Return the partition, ``0 <= p < partitions``, that Kafka's default partitioner gives the key *agent_id*."""
    return (murmur2(agent_id.encode()) & 0x7FFFFFFF) % partitions


def partitioner(partitions: int) -> Callable[[str], int]:
    """Return :func:`partition_of` for a fixed number of *partitions*, remembering the agents it has seen."""
    known: dict[str, int] = {}

    def cached(agent_id: str) -> int:
        partition = known.get(agent_id)
        if partition is None:
            if len(known) >= _CACHED_AGENTS:
                known.clear()
            partition = known[agent_id] = partition_of(agent_id, partitions)
        return partition

    return cached
