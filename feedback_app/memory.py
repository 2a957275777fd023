"""How the C library manages memory in a worker."""

from __future__ import annotations

import ctypes
import os
from typing import Final

_M_ARENA_MAX: Final = -8
_ARENAS: Final = 2


def share_arenas() -> None:
    """Let all threads allocate from a few arenas. To be called before there are any.

    glibc gives every thread an arena of its own, up to eight for each core, and none gets back what is free in another.
    A worker has some eighty threads (librdkafka's, RocksDB's), so that a fifth of its memory was free and could not be
    used. ``MALLOC_ARENA_MAX`` in the environment wins; another C library is left as it is.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(_M_ARENA_MAX, _ARENAS)
