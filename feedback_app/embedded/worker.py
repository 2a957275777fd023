"""A worker in a process of its own: ``faust -A feedback_app worker``."""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import SecretStr

from feedback_app.embedded.process import ChildProcess, EmbeddedError
from feedback_app.settings import PREFIX, Settings

READY_S: Final = 90.0
_ANSWER_S: Final = 2.0
_LOG_LINES: Final = 30

_T = TypeVar("_T")


class WorkerProcess(ChildProcess):
    """A worker with the given settings. Its log goes to a file, which it appends to when it is started again.

    Args:
        settings: handed over as environment variables: what was set explicitly.
        log: the log file.
        app: what ``faust -A`` gets.
    """

    def __init__(self, settings: Settings, log: Path, *, app: str = "feedback_app") -> None:
        self.settings = settings
        self.log = log
        self.url = f"http://{settings.web_host}:{settings.web_port}"
        command = [sys.executable, "-m", "faust", "-A", app, "worker", "--loglevel", "INFO", "--logfile", str(log)]
        super().__init__(
            "the worker", command, settings.web_port, env=dict(environment(settings)), start_timeout_s=READY_S
        )

    def wait_until_ready(self, timeout_s: float = READY_S) -> None:
        """Wait until every assigned partition is restored.

        Raises:
            EmbeddedError: it died, or took too long; with the end of its log.
        """
        deadline = time.monotonic() + timeout_s
        while (answer := self.get("/health/ready"))[0] != HTTPStatus.OK:
            self.check()
            if time.monotonic() > deadline:
                raise EmbeddedError(f"the worker was not ready after {timeout_s:g} s ({answer}):\n{self.end_of_log()}")
            time.sleep(0.1)

    def get(self, path: str, **headers: str) -> tuple[int, Any]:
        """Return status and JSON body of one of its pages; ``(0, None)`` when it does not answer."""
        request = urllib.request.Request(self.url + path, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=_ANSWER_S) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            return 0, None  # not yet, or no more

    def check(self) -> None:
        """Make sure that it is running.

        Raises:
            EmbeddedError: it is not; with the end of its log.
        """
        if not self.running:
            raise EmbeddedError(f"the worker has died:\n{self.end_of_log()}")

    def watched(self, report: Callable[[_T], None]) -> Callable[[_T], None]:
        """Return *report* with a :meth:`check` before each call: nobody should wait for a dead worker."""

        def checked(what: _T) -> None:
            self.check()
            report(what)

        return checked

    def end_of_log(self) -> str:
        """Return its last lines, logged and printed."""
        logged = self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:] if self.log.exists() else []
        return "\n".join([*logged, self.last_output()])


def environment(settings: Settings) -> Iterator[tuple[str, str]]:
    """Yield the settings that were given explicitly as the environment variables that give them."""
    for name in sorted(settings.model_fields_set):
        value = getattr(settings, name)
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        if value is not None:
            yield f"{PREFIX}{name.upper()}", str(value)
