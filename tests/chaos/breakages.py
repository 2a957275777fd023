"""The rules of the protocol, each broken on purpose: a suite that passes with one of them broken shows nothing.

Each breakage is a patch of the product's own classes, applied inside a worker when ``CHAOS_BREAK`` names it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import tables.partition
from feedback_app.closing import Closing
from feedback_app.core.state import CLOSED, PartitionRecord
from feedback_app.core.transaction import Transaction
from feedback_app.folding import Fold
from feedback_app.transport.transactions import TransactionalProducer
from tables.partition import OwnedPartition
from tables.state import PartitionState
from tables.store import PartitionStore, Position

VARIABLE: Final = "CHAOS_BREAK"


def offsets_outside_the_transaction() -> None:
    """The group's offsets, told after the commit, decide where reading starts."""

    def group_offsets(settings: Any, topics: Any, partition: int, state: Any, restored: Any) -> dict[str, int]:
        return {topic: max(low, restored.committed.get(topic, 0)) for topic, low in restored.firsts.items()}

    tables.partition.start_offsets = group_offsets


def rocksdb_before_the_commit() -> None:
    """The store holds what may still be aborted."""
    commit = OwnedPartition._commit

    def persist_first(self: OwnedPartition, transaction: Transaction) -> None:
        stored = self._store and self._store.position()
        self.state.persist(transaction, Position(stored.offset if stored else 0, 0, self.identities.changelog))
        commit(self, transaction)

    OwnedPartition._commit = persist_first  # type: ignore[method-assign]  # that is the point


def cache_kept_after_an_abort() -> None:
    """The cache holds what may still be aborted."""
    commit = OwnedPartition.commit

    async def cache_first(self: OwnedPartition, transaction: Transaction) -> None:
        self.state._cache.update((key, value) for key, value in transaction.changes.items() if value is not None)
        await commit(self, transaction)

    OwnedPartition.commit = cache_first  # type: ignore[method-assign]  # that is the point


def no_fence() -> None:
    """Whoever takes a partition over leaves its former owner as it is."""
    create = TransactionalProducer.__init__

    def with_an_id_of_its_own(self: TransactionalProducer, settings: Any, *args: Any, **kwargs: Any) -> None:
        unique = settings.model_copy(update={"app_id": f"{settings.app_id}-{id(self)}"})
        create(self, unique, *args, **kwargs)

    TransactionalProducer.__init__ = with_an_id_of_its_own  # type: ignore[method-assign]  # that is the point


def a_changed_window_is_closed() -> None:
    """A window is closed although events were counted since its document was built."""
    settle = Closing.settle

    class Unchanging:
        """A state that says of every window in question that it is as it was."""

        def __init__(self, state: Any, stored: Any) -> None:
            self._state = state
            self._was = {due.key: due.value for due in stored}

        @property
        def record(self) -> PartitionRecord:
            record: PartitionRecord = self._state.record
            return record

        def stored(self, key: bytes) -> bytes | None:
            value: bytes | None = self._was.get(key) or self._state.stored(key)
            return value

    def settle_blindly(self: Closing, state: Any, joined: Any = None) -> Any:
        return settle(self, Unchanging(state, self.stored))

    Closing.settle = settle_blindly  # type: ignore[method-assign]  # that is the point


def the_floor_is_forgotten() -> None:
    """Closed records go when the floor passes them, and events below the floor are counted all the same."""
    Fold._open_from = lambda self, highest: (0, 1 << 62)  # type: ignore[method-assign]  # that is the point


def the_cursor_is_not_lowered() -> None:
    """A window that is opened behind the cursor is not looked at again."""
    apply = PartitionState.apply

    def keep_the_cursor(self: PartitionState, transaction: Transaction) -> None:
        cursor = self._cursor
        apply(self, transaction)
        self._cursor = cursor

    PartitionState.apply = keep_the_cursor  # type: ignore[method-assign]  # that is the point


def caches_are_kept_over_a_rebalance() -> None:
    """What was cached of a partition is there still when it comes back from another worker."""
    create = PartitionState.__init__
    caches: dict[str, dict[bytes, bytes]] = {}

    def with_the_old_cache(self: PartitionState, store: PartitionStore, cached: int) -> None:
        create(self, store, cached)
        self._cache = caches.setdefault(store.path.name, {})

    PartitionState.__init__ = with_the_old_cache  # type: ignore[method-assign]  # that is the point


def closing_writes_no_tombstone() -> None:
    """A closed window stays open in the changelog."""
    transact = TransactionalProducer.transact

    def without_tombstones(
        self: TransactionalProducer, sends: Any, topic: str, changes: Any, last: tuple[bytes, bytes]
    ) -> int:
        kept = {key: value for key, value in changes.items() if value is not None or key.startswith(CLOSED)}
        return transact(self, sends, topic, kept, last)

    TransactionalProducer.transact = without_tombstones  # type: ignore[method-assign]  # that is the point


BREAKAGES: Final[dict[str, Callable[[], None]]] = {
    "offsets-outside": offsets_outside_the_transaction,
    "rocksdb-first": rocksdb_before_the_commit,
    "cache-after-abort": cache_kept_after_an_abort,
    "no-fence": no_fence,
    "changed-closed": a_changed_window_is_closed,
    "floor-forgotten": the_floor_is_forgotten,
    "cursor-not-lowered": the_cursor_is_not_lowered,
    "cache-over-rebalance": caches_are_kept_over_a_rebalance,
    "no-tombstones": closing_writes_no_tombstone,
}
