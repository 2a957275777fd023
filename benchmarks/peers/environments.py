"""The environments of the peers: their dependencies contradict ours, so each gets one of its own."""

from __future__ import annotations

import fcntl
import hashlib
import platform
import subprocess
import sys
from pathlib import Path
from typing import Final

_PEERS: Final = Path(__file__).parent
_CACHE: Final = Path(__file__).parents[2] / ".cache" / "peers"
_INSTALL_TIMEOUT_S: Final = 900


class EnvironmentUnavailable(Exception):
    """A peer's environment could not be made; the message says what pip said."""


def environment(name: str) -> Path:
    """Return the Python interpreter with the requirements of the peer *name*, making its environment the first time.

    It is kept in ``.cache/peers``, and made anew when the requirements or the version of Python change.

    Raises:
        EnvironmentUnavailable: the requirements can't be installed, or do not fit together.
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
        _run(name, [sys.executable, "-m", "venv", "--clear", str(directory)])
        pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
        # Nothing but what is pinned; then the check that nothing is missing.
        _run(name, [*pip, "install", "--quiet", "--no-deps", "--requirement", str(requirements)])
        _run(name, [*pip, "check"])
        complete.touch()
    return python


def _run(name: str, command: list[str]) -> None:
    try:
        done = subprocess.run(
            command,
            check=False,
            text=True,
            errors="replace",
            timeout=_INSTALL_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except subprocess.TimeoutExpired as error:
        raise EnvironmentUnavailable(f"{name}: {error}") from error
    if done.returncode != 0:
        raise EnvironmentUnavailable(f"{name}: {' '.join(command)} failed:\n{done.stdout.strip()}")
