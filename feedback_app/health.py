"""What the worker says of itself when it is asked how it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from feedback_app.errors import FeedbackError


class Health:
    """Collects the reasons for which the worker is degraded: it serves, but something waits."""

    def __init__(self) -> None:
        self._waiting_for_database = 0
        self._stale: set[str] = set()
        self._refused: set[str] = set()
        self._database_error = ""
        #: How many writes were not taken, so far.
        self.failed_writes = 0

    @contextmanager
    def waiting_for_database(self) -> Iterator[None]:
        """Note, for the length of a write, that it is under way; it counts once a try has failed.

        A write that is taken says that the database is back, whichever writes are still to be tried again.
        """
        self._waiting_for_database += 1
        try:
            yield
            self._database_error = ""
        finally:
            self._waiting_for_database -= 1
            if self._waiting_for_database == 0:
                self._database_error = ""

    def database_failed(self, error: FeedbackError) -> None:
        """Note that a write was not taken, and is tried again."""
        self._database_error = error.message
        self.failed_writes += 1

    def stale(self, document_id: str) -> None:
        """Note a window whose document is ahead of our state."""
        self._stale.add(document_id)

    def refused(self, document_id: str) -> None:
        """Note a window whose document the database refuses."""
        self._refused.add(document_id)

    def closed(self, document_id: str) -> None:
        """Forget what was wrong with a window that is closed now."""
        self._stale.discard(document_id)
        self._refused.discard(document_id)

    def given_up(self, document_ids: Iterable[str]) -> None:
        """Forget windows that are another worker's from now on."""
        for document_id in document_ids:
            self.closed(document_id)

    @property
    def waits_for_database(self) -> bool:
        """Whether a write is under way that was not taken, and none was taken since."""
        return bool(self._waiting_for_database and self._database_error)

    @property
    def database_error(self) -> str:
        """Why a write was not taken; empty where the last one was."""
        return self._database_error

    @property
    def stale_windows(self) -> int:
        """How many windows have a document that is ahead of our state."""
        return len(self._stale)

    @property
    def refused_windows(self) -> int:
        """How many windows have a document that the database refuses."""
        return len(self._refused)

    def degraded(self) -> list[str]:
        """Return the reasons, in words; none when all is well."""
        reasons = []
        if self.waits_for_database:
            reasons.append(f"waiting for the database: {self._database_error}")
        if self._stale:
            reasons.append(f"{len(self._stale)} windows have a document that is ahead of the state")
        if self._refused:
            reasons.append(f"{len(self._refused)} windows are refused by the database")
        return reasons
