"""A sink without a database, for measuring everything else."""

from __future__ import annotations

from collections.abc import Sequence

from feedback_app.core.documents import Document
from feedback_app.sinks import Outcome


class CountingSink:
    """Implements ``feedback_app.sinks.Sink`` by counting what it is given. For benchmarks: it stores nothing.

    It fences nothing either: a window that is written twice is counted twice. It keeps nothing of what it is given, so
    that it takes no memory in a measurement.

    Attributes:
        operations: window documents written.
        counted: the sum of their counts.
        items: items written.
    """

    def __init__(self) -> None:
        self.operations = 0
        self.counted = 0
        self.items = 0

    async def upsert_windows(self, documents: Sequence[Document]) -> Outcome:
        """Count the documents and accept them all."""
        self.operations += len(documents)
        self.counted += sum(document["count"] for document in documents)
        return Outcome()

    async def upsert_items(self, items: Sequence[Document]) -> int:
        """Count the items and refuse none."""
        self.items += len(items)
        return 0

    async def close(self) -> None:
        """Hold nothing, so let go of nothing."""
