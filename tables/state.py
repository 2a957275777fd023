"""One partition's committed state: the store, a cache of hot windows before it, and the close schedule."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice

from feedback_app.core.state import CLOSED, OPEN, PARTITION_RECORD_KEY, Changes, PartitionRecord, end_of
from feedback_app.core.transaction import Transaction
from tables.store import PartitionStore, Position


class PartitionState:
    """What folds and closes read, and what a committed transaction changes. It only ever holds what is committed.

    Args:
        store: the partition's store, restored.
        cached: how many windows to keep in memory. More cost a read, never data.
    """

    def __init__(self, store: PartitionStore, cached: int) -> None:
        self._store = store
        self._cached = cached
        self._known = store.record()
        self._record = self._known or PartitionRecord()
        self._cache: dict[bytes, bytes] = {}
        #: What was read of the windows that were taken: a pass asks for each of them once more, and there are few.
        self._taken: dict[bytes, bytes] = {}
        #: No open window was ever stored under a later key: the store need not be asked for one. Most windows that are
        #: counted into for the first time are later than all others.
        self._last_open = store.newest_open() or OPEN
        self._cursor = OPEN
        self._closed_cursor = CLOSED

    @property
    def is_new(self) -> bool:
        """Whether nothing was ever committed for this partition."""
        return self._known is None

    @property
    def record(self) -> PartitionRecord:
        return self._record

    @property
    def cached(self) -> int:
        """How many windows are in memory."""
        return len(self._cache)

    @property
    def cursor(self) -> bytes:
        """From where on due windows are taken next."""
        return self._cursor

    def stored(self, key: bytes) -> bytes | None:
        """Return the value stored under the key of a window."""
        if key > self._last_open:
            return None
        value = self._cache.get(key) or self._taken.get(key)
        return self._store.get(key) if value is None else value

    def known(self) -> tuple[Mapping[bytes, bytes], bytes]:
        """Return the windows that are in memory, by their keys; and a key after which none was ever open."""
        return self._cache, self._last_open

    def open_windows_of(self, agent_id: str) -> list[tuple[bytes, bytes]]:
        """Return the open windows of one agent, oldest first."""
        return self._store.open_windows_of(agent_id)

    def newest_end(self) -> int | None:
        """Return the end of the newest open window; None when none is open."""
        key = self._store.newest_open()
        return None if key is None else end_of(key)

    def count_open(self, after: bytes, until_end: int | None, limit: int) -> tuple[int, bytes]:
        """See :meth:`PartitionStore.count_open`."""
        return self._store.count_open(after, until_end, limit)

    # -- the close schedule ----------------------------------------------------------------------------------------

    def take_due(self, limit: int) -> list[tuple[bytes, bytes]]:
        """Take at most *limit* due windows, in key order.

        They are not given out again until :meth:`put_back`, or until they change. A scan starts where the last one
        ended, and not from the front: what was closed leaves tombstones in RocksDB, and a scan over them gets slower
        for ever.
        """
        found = self._store.open_windows(self._cursor, self._record.watermark, limit)
        if found:
            self._cursor = found[-1][0] + b"\x00"
            self._taken.update(found)
        return found

    def put_back(self, keys: Iterable[bytes]) -> None:
        """Give windows out again that were taken and not closed."""
        self._cursor = min((self._cursor, *keys))

    def take_expired(self, limit: int) -> list[bytes]:
        """Take the keys of at most *limit* closed records that end at or below the floor; each is given out once."""
        found = self._store.closed_keys(self._closed_cursor, self._record.floor, limit)
        if found:
            self._closed_cursor = found[-1] + b"\x00"
        return found

    # -- changes ---------------------------------------------------------------------------------------------------

    def persist(self, transaction: Transaction, position: Position) -> None:
        """Write a committed transaction to the store. May run in another thread; then :meth:`apply` it.

        Raises:
            StateError: nothing was written: the partition must be given up.
        """
        self._store.write(changelog_of(transaction), position)

    def apply(self, transaction: Transaction) -> None:
        """Let the rest of the state follow a transaction that was persisted."""
        self._record = transaction.record
        cache, changes = self._cache, transaction.changes
        opened = {key: value for key, value in changes.items() if value is not None and key.startswith(OPEN)}
        if opened:
            self._cursor = min(self._cursor, *opened)
            self._last_open = max(self._last_open, *opened)
            cache.update(opened)
            # The oldest go first. That is not the least used, and good enough: what is missing costs a microsecond.
            for key in list(islice(cache, max(0, len(cache) - self._cached))):
                del cache[key]
        if cache and len(opened) != len(changes):
            for key in changes.keys() - opened.keys():
                cache.pop(key, None)
        for key in self._taken.keys() & transaction.changes.keys():
            del self._taken[key]


def changelog_of(transaction: Transaction) -> Changes:
    """Return what *transaction* puts into the changelog and the store alike."""
    return {**transaction.changes, PARTITION_RECORD_KEY: transaction.record.encode()}
