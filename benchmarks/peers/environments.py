"""The environments of the peers: their dependencies contradict ours, so each gets one of its own."""

from __future__ import annotations

import fcntl
import hashlib
import platform
import sys
from pathlib import Path
from typing import Final

from tests.services.kafka import run

_PEERS: Final = Path(__file__).parent
_CACHE: Final = Path(__file__).parents[2] / ".cache" / "peers"
_INSTALL_TIMEOUT_S: Final = 900


def environment(name: str) -> Path:
    """Return the Python interpreter with the requirements of the peer *name*, making its environment the first time.

    It is kept in ``.cache/peers``, and made anew when the requirements or the version of Python change.

    Raises:
        ServiceUnavailable: the requirements can't be installed, or do not fit together; with what pip said.
    """
    requirements = _PEERS / name / "requirements.txt"
    identity = requirements.read_bytes() + platform.python_version().encode()
    directory = _CACHE / f"{name}-{hashlib.sha256(identity).hexdigest()[:12]}"
    python = directory / "bin" / "python"
    # An environment can't be moved to its place once it is complete, so a stamp says that it is.
    complete = directory / "complete"
    _CACHE.mkdir(parents=True, exist_ok=True)
    with directory.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # let go when the file is closed, however that comes about
        if complete.exists() and python.exists():
            return python
        pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(directory)],
            # Nothing but what is pinned; then the check that nothing is missing.
            [*pip, "install", "--quiet", "--no-deps", "--requirement", str(requirements)],
            [*pip, "check"],
        ):
            run(command, f"{name}: {' '.join(command)} failed", _INSTALL_TIMEOUT_S)
        complete.touch()
    return python
