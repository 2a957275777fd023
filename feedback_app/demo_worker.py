"""The demo's worker: a process of its own, watched."""

from __future__ import annotations

import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Final, TypeVar

from pydantic import SecretStr

from feedback_app.embedded.process import ChildProcess
from feedback_app.errors import FeedbackError
from feedback_app.settings import PREFIX, Settings

_READY_S: Final = 90.0
_LOG_LINES: Final = 20

_T = TypeVar("_T")


class DemoError(FeedbackError):
    """The demo could not go on."""


class DemoWorker(ChildProcess):
    """The worker, ``faust -A feedback_app worker``, as a process with these settings; it logs to the file *log*."""

    def __init__(self, settings: Settings, log: Path) -> None:
        self._log = log
        self.url = f"http://{settings.web_host}:{settings.web_port}"
        command = [sys.executable, "-m", "faust", "-A", "feedback_app", "worker"]
        command += ["--loglevel", "INFO", "--logfile", str(log)]
        super().__init__(
            "the worker", command, settings.web_port, env=dict(_environment(settings)), start_timeout_s=_READY_S
        )

    def wait_until_ready(self) -> None:
        """Wait until every partition is restored.

        Raises:
            DemoError: it died, or took too long; with the end of its log.
        """
        deadline = time.monotonic() + _READY_S
        while not _answers_ok(f"{self.url}/health/ready"):
            self.check()
            if time.monotonic() > deadline:
                raise DemoError(f"the worker was not ready after {_READY_S:g} s:\n{self._end_of_log()}")
            time.sleep(0.1)

    def check(self) -> None:
        """Make sure that it is running.

        Raises:
            DemoError: it is not; with the end of its log.
        """
        if not self.running:
            raise DemoError(f"the worker has died:\n{self._end_of_log()}")

    def watched(self, report: Callable[[_T], None]) -> Callable[[_T], None]:
        """Return *report* with a :meth:`check` before each call: nobody should wait for a dead worker."""

        def checked(what: _T) -> None:
            self.check()
            report(what)

        return checked

    def _end_of_log(self) -> str:
        logged = self._log.read_text(errors="replace").splitlines()[-_LOG_LINES:] if self._log.exists() else []
        return "\n".join([self.last_output(), *logged])


def _environment(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield the settings as the environment variables that give them."""
    for name in settings.model_fields_set:
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        if value is not None:
            yield f"{PREFIX}{name.upper()}", str(value)


def _answers_ok(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == HTTPStatus.OK)
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False  # not yet
