"""Redis: Debian's ``redis-server``, on the loopback interface, as it is run where its content matters."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Final

from feedback_app.embedded.process import HOST, ChildProcess, free_port

_PROGRAM: Final = "redis-server"


def why_unavailable() -> str:
    """Return why Redis can't run on this machine; empty when it can."""
    return "" if shutil.which(_PROGRAM) else f"{_PROGRAM} is needed (Debian: apt install redis-server)"


class RedisServer(ChildProcess):
    """A Redis that appends what it is told to a file, synced every second; gone on :meth:`close`."""

    def __init__(self, data_dir: Path | None = None) -> None:
        self._temporary = tempfile.TemporaryDirectory(prefix="feedback-redis-") if data_dir is None else None
        data_dir = Path(self._temporary.name) if self._temporary else data_dir
        assert data_dir is not None
        data_dir.mkdir(parents=True, exist_ok=True)
        port = free_port()
        command = [_PROGRAM, "--bind", HOST, "--port", str(port), "--dir", str(data_dir), "--save", ""]
        command += ["--appendonly", "yes", "--appendfsync", "everysec"]
        super().__init__("Redis", command, port)

    @property
    def url(self) -> str:
        return f"redis://{HOST}:{self.port}/0"

    def close(self) -> None:
        """Stop for good; a temporary data directory is removed."""
        super().close()
        if self._temporary is not None:
            self._temporary.cleanup()
