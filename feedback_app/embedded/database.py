"""SecantusDB: MongoDB's wire protocol over WiredTiger, durable on every commit."""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from pathlib import Path

from feedback_app.embedded.process import HOST, ChildProcess, free_port, not_installed


class EmbeddedDatabase(ChildProcess):
    """A SecantusDB server on the loopback interface. What it has acknowledged survives :meth:`kill`.

    It is GPL-2.0 software, which is why it is an optional part and runs as a separate program.
    """

    def __init__(
        self, data_dir: Path | None = None, *, port: int | None = None, enable_test_commands: bool = False
    ) -> None:
        """Prepare a database.

        Args:
            data_dir: where it keeps its data; made if missing, kept afterwards. Without one, a temporary directory
                that lasts until :meth:`close`.
            port: where it listens; a free port by default. A restart listens on the same one.
            enable_test_commands: accept ``configureFailPoint``, with which a client makes commands fail.

        Raises:
            EmbeddedError: the optional extra ``embedded`` is not installed.
        """
        if importlib.util.find_spec("secantus") is None:
            raise not_installed("The embedded database (SecantusDB)")
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if data_dir is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="feedback-database-")
            data_dir = Path(self._temporary.name)
        self.data_dir = data_dir.resolve()
        port = port or free_port()
        # A file of its own, and empty: without one, it would read a developer's from the home directory.
        self._config_file = self.data_dir / "secantusd.toml"
        command = [sys.executable, "-P", "-m", "secantus", "--config", str(self._config_file)]
        command += ["--host", HOST, "--port", str(port), "--storage-path", str(self.data_dir / "storage")]
        command += ["--sync-on-commit", "--cache-size", "256M", "--log-level", "WARNING"]
        if enable_test_commands:
            command.append("--enable-test-commands")
        super().__init__("SecantusDB", command, port)

    @property
    def url(self) -> str:
        return f"mongodb://{HOST}:{self.port}"

    def start(self) -> None:
        """Start the database on its data directory.

        Raises:
            EmbeddedError: as :meth:`ChildProcess.start`.
        """
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._config_file.touch()
        super().start()

    def close(self) -> None:
        """Stop for good; a temporary data directory is removed."""
        if self._temporary is None:
            super().close()
            return
        # Nobody will read what an orderly shutdown would write, and it takes seconds.
        self.kill()
        super().close()
        self._temporary.cleanup()
