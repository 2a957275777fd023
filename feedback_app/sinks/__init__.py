"""Where closed windows and items go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from feedback_app.core.documents import Document
from feedback_app.errors import DatabaseError


class SinkUnavailable(DatabaseError):
    """The database did not take the write: nothing is known of it, and the same write can be tried again."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a bulk upsert, by document ``_id``. What is in neither mapping is stored, durably.

    Attributes:
        ahead: documents that are there already with a higher count than ours, and that count.
        refused: documents that the database refuses for a reason of their own, and the reason.
    """

    ahead: Mapping[str, int] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)


class Sink(Protocol):
    """The database, as the close path and the fold see it."""

    async def upsert_windows(self, documents: Sequence[Document]) -> Outcome:
        """Store window documents (``feedback_app.core.documents.window_document``) in one bulk write.

        Fenced by count: a document that is there with a higher count is left alone and reported as ahead. Repeating
        the call changes nothing but ``closedAt``.

        Raises:
            SinkUnavailable: nothing is known of any of them; repeat.
        """
        ...

    async def upsert_items(self, items: Sequence[Document]) -> int:
        """Store items (``feedback_app.core.documents.item_document``) in one bulk write; the newer one wins.

        Returns:
            How many the database refused for good. (An item that is older than what is there is not refused.)

        Raises:
            SinkUnavailable: nothing is known of any of them; repeat.
        """
        ...

    async def close(self) -> None:
        """Let go of the connections."""
        ...
