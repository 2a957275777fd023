"""How far closing has come with what is due, for whoever asks. Kept up to date by the way; nothing is decided by it."""

from __future__ import annotations

import time
from collections.abc import Callable


class Schedule:
    """The open windows of one partition, counted.

    What is taken and what is held is known at any moment. The rest is in RocksDB alone and is counted now and then
    (``agents.survey``).
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._caught_up_at = monotonic()
        self._in_hand = 0
        self._held = 0
        self._waiting = 0
        self._not_due = 0

    @property
    def due(self) -> int:
        """Windows that are due and not closed."""
        return self._in_hand + self._held + self._waiting

    @property
    def open(self) -> int:
        """All open windows."""
        return self.due + self._not_due

    @property
    def backlog_s(self) -> float:
        """Since closing last had nothing left to do."""
        return self._monotonic() - self._caught_up_at

    def taken(self, windows: int, *, more: bool) -> None:
        """Note how many windows a pass has taken, less those that are held; *more* says that there may be more."""
        self._in_hand = windows
        self._waiting = max(0, self._waiting - self._in_hand) if more else 0

    def closed(self, windows: int) -> None:
        """Note that the pass has closed so many."""
        self._in_hand = max(0, self._in_hand - windows)

    def passed(self, *, held: int, caught_up: bool) -> None:
        """Note the end of a pass: how many windows are held back now, and whether there was nothing left to do."""
        self._held = held
        self._in_hand = 0
        if caught_up:
            self._caught_up_at = self._monotonic()

    def surveyed(self, *, waiting: int, not_due: int) -> None:
        """Note what was counted: windows that are due and not taken yet, and windows that are not due."""
        self._waiting = waiting
        self._not_due = not_due
