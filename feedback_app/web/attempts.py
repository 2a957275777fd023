"""How often somebody may try."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

#: Wrong logins that a worker answers at once, all callers together, and how soon there is room for one more.
_AT_ONCE: Final = 10
_EVERY_S: Final = 6.0


class Attempts:
    """A bucket of attempts: *at_once* of them, and a new one after every *every_s* seconds."""

    def __init__(
        self,
        at_once: int = _AT_ONCE,
        every_s: float = _EVERY_S,
        *,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most_s = at_once * every_s
        self._every_s = every_s
        self._now_s = now_s
        #: When the bucket will be full again.
        self._full_at = now_s()

    def wait_s(self) -> float:
        """Return the seconds until there is an attempt; 0 when there is one."""
        return max(0.0, self._full_at + self._every_s - self._most_s - self._now_s())

    def take(self) -> None:
        """Take one attempt, whether there is one or not."""
        self._full_at = max(self._full_at, self._now_s()) + self._every_s
