"""One partition's state on disk: RocksDB, written in atomic batches."""

from __future__ import annotations

import logging
import shutil
import struct
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

import rocksdict

from feedback_app.core.state import CLOSED, OPEN, PARTITION_RECORD_KEY, PartitionRecord, ends_after
from feedback_app.errors import StateError

logger = logging.getLogger(__name__)

#: Outside the prefixes of the state, so it is never mistaken for state, and never in the changelog.
_POSITION_KEY: Final = b"\x00position"
_POSITION: Final = struct.Struct(">BQQ")
_POSITION_VERSION: Final = 1
_OPEN_END: Final = bytes([OPEN[0] + 1])
_TIMES_END: Final = 17  # prefix, window end and window size; the agent's id follows

#: Shared by all partitions of the process, so that neither their number nor a backlog makes RocksDB take more: what was
#: written and is not on disk yet, and blocks that were read.
_WRITE_BUFFERS_BYTES: Final = 24 << 20
_BLOCK_CACHE_BYTES: Final = 16 << 20


class Position(NamedTuple):
    """Up to where the store has followed the changelog.

    Attributes:
        offset: the next changelog offset to read.
        at_ms: wall time of the write; tombstones that are older may be gone from the changelog.
        topic_id: the changelog's id; another one means that the topic was made anew.
    """

    offset: int
    at_ms: int
    topic_id: str

    def encode(self) -> bytes:
        return _POSITION.pack(_POSITION_VERSION, self.offset, self.at_ms) + self.topic_id.encode()

    @classmethod
    def decode(cls, data: bytes) -> Position:
        version, offset, at_ms = _POSITION.unpack_from(data)
        if version != _POSITION_VERSION:
            raise StateError(f"the data dir has format {version}; this version reads format {_POSITION_VERSION}")
        return cls(offset, at_ms, data[_POSITION.size :].decode())


class PartitionStore:
    """The RocksDB of one partition, for one assignment.

    A store belongs to one assignment: once :meth:`close` was called, every later call raises, so that a straggler of
    an earlier assignment can't write into the present one.

    Args:
        path: the folder; made when missing.

    Raises:
        StateError: the folder can't be opened, for one because another process has it open.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._db = _open(path)

    def position(self) -> Position | None:
        """Return up to where the changelog is in the store; None for an empty store."""
        stored = self._db.get(_POSITION_KEY)
        return None if stored is None else Position.decode(stored)

    def record(self) -> PartitionRecord | None:
        """Return the partition record; None when there is none yet."""
        stored = self._db.get(PARTITION_RECORD_KEY)
        return None if stored is None else PartitionRecord.decode(stored)

    def get(self, key: bytes) -> bytes | None:
        """Return the value stored under a state key."""
        value: bytes | None = self._db.get(key)
        return value

    def write(self, changes: Mapping[bytes, bytes | None], position: Position) -> None:
        """Apply *changes* (None deletes) and the *position* reached with them, all or nothing.

        Raises:
            StateError: nothing was written (the disk is full, say).
        """
        batch = rocksdict.WriteBatch(raw_mode=True)
        for key, value in changes.items():
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        batch.put(_POSITION_KEY, position.encode())
        try:
            self._db.write(batch)
        except Exception as error:  # rocksdict raises bare Exceptions
            raise StateError(f"{self.path}: RocksDB refused a write: {error}") from error

    def open_windows(self, after: bytes, until_end: int, limit: int) -> list[tuple[bytes, bytes]]:
        """Return at most *limit* open windows, in key order, from the key *after* on, that end at or before
        *until_end*."""
        return list(islice(self._range(max(after, OPEN), ends_after(OPEN, until_end)), limit))

    def closed_keys(self, after: bytes, until_end: int, limit: int) -> list[bytes]:
        """Return the keys of at most *limit* closed records, in key order, as :meth:`open_windows` does."""
        found = self._range(max(after, CLOSED), ends_after(CLOSED, until_end))
        return [key for key, _ in islice(found, limit)]

    def count_open(self, after: bytes, until_end: int | None, limit: int) -> tuple[int, bytes]:
        """Count at most *limit* open windows, from the key *after* on, that end at or before *until_end*, if given.

        Returns:
            How many there are, and the key to go on from. A hundred thousand take some 30 ms.
        """
        bounds = rocksdict.ReadOptions()
        bounds.set_iterate_upper_bound(_OPEN_END if until_end is None else ends_after(OPEN, until_end))
        found: Any = self._db.keys(from_key=max(after, OPEN), read_opt=bounds)  # an iterator, whatever is declared
        keys: list[bytes] = list(islice(found, limit))
        return len(keys), keys[-1] + b"\x00" if keys else after

    def open_windows_of(self, agent_id: str) -> list[tuple[bytes, bytes]]:
        """Return the open windows of one agent, oldest first. Costs two seeks for each window end that is open."""
        found = []
        suffix = agent_id.encode()
        iterator = self._db.iter()
        iterator.seek(OPEN)
        while iterator.valid() and iterator.key().startswith(OPEN):
            times = iterator.key()[:_TIMES_END]
            iterator.seek(times + suffix)
            if iterator.valid() and iterator.key() == times + suffix:
                found.append((iterator.key(), iterator.value()))
            iterator.seek((int.from_bytes(times, "big") + 1).to_bytes(_TIMES_END, "big"))
        return found

    def newest_open(self) -> bytes | None:
        """Return the key of the open window that ends last; None when no window is open."""
        iterator = self._db.iter()
        iterator.seek_for_prev(OPEN + b"\xff" * 17)
        if not iterator.valid():
            return None
        key: bytes = iterator.key()
        return key if key.startswith(OPEN) else None

    def wipe(self) -> None:
        """Start over with an empty folder."""
        self._db.close()
        shutil.rmtree(self.path)
        self._db = _open(self.path)

    def close(self) -> None:
        """Give the folder up. May be called twice."""
        try:
            self._db.close()
        except rocksdict.DbClosedError:
            logger.debug("%s was closed already", self.path)

    def _range(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        bounds = rocksdict.ReadOptions()
        bounds.set_iterate_upper_bound(stop)
        yield from self._db.items(from_key=start, read_opt=bounds)


def _open(path: Path) -> rocksdict.Rdict:
    try:
        return rocksdict.Rdict(str(path), options=_options())
    except Exception as error:  # rocksdict raises bare Exceptions
        raise StateError(
            f"{path}: RocksDB can't be opened: {error}. Is another worker using this FEEDBACK_DATA_DIR? "
            "Each worker needs one of its own."
        ) from error


@cache
def _shared_memory() -> tuple[rocksdict.WriteBufferManager, rocksdict.Cache]:
    return rocksdict.WriteBufferManager(_WRITE_BUFFERS_BYTES, False), rocksdict.Cache(_BLOCK_CACHE_BYTES)


def _options() -> rocksdict.Options:
    """Return options for many small partitions in one process."""
    write_buffers, blocks = _shared_memory()
    table = rocksdict.BlockBasedOptions()
    table.set_bloom_filter(10, False)  # most look-ups are for windows that are not there yet
    table.set_block_cache(blocks)
    # Else they would be kept besides, for as many files as are open: they grow with what is stored.
    table.set_cache_index_and_filter_blocks(True)
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_block_based_table_factory(table)
    options.set_compression_type(rocksdict.DBCompressionType.lz4())
    options.set_write_buffer_size(8 << 20)
    options.set_write_buffer_manager(write_buffers)
    options.set_max_write_buffer_number(2)
    options.set_max_open_files(64)
    options.set_keep_log_file_num(2)
    return options
