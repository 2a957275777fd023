"""The log as one JSON object a line, for ``FEEDBACK_LOG_FORMAT=json``."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any

from faust.cli.worker import worker as faust_worker
from mode import Worker


class JsonFormatter(logging.Formatter):
    """Makes one JSON object of a record: ``time``, ``level``, ``logger``, ``message``, and maybe ``exception``.

    It is all ASCII, so that neither the encoding of a stream nor a strange line separator can break it.
    """

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": _clean(record.getMessage()),
        }
        details = [self.formatException(record.exc_info)] if record.exc_info else []
        if record.stack_info:
            details.append(self.formatStack(record.stack_info))
        if details:
            line["exception"] = _clean("\n".join(details))
        return json.dumps(line)


def json_logging() -> dict[str, Any]:
    """Return the setting ``logging_config`` of a Faust application that logs JSON.

    Relies on mode: ``merge`` leaves everything as it sets it up by itself, handlers and level for ``--logfile`` and
    ``--loglevel`` too, but for what is given here; and its handlers have these two formatters, one for files and one
    for stderr.
    """
    formatter = {"()": JsonFormatter}
    return {"merge": True, "formatters": {"default": formatter, "colored": formatter}}


def log_json_from_the_start() -> None:
    """Write what is logged before logging is set up as JSON, too: Python sends warnings and worse to stderr."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(JsonFormatter())


def show_as_json(message: str) -> None:
    """Write to stderr what has ended the process, wherever the log goes."""
    record = logging.makeLogRecord(
        {"name": __name__, "levelno": logging.CRITICAL, "levelname": "CRITICAL", "msg": "%s", "args": (message,)}
    )
    last = logging.StreamHandler()
    last.setFormatter(JsonFormatter())
    last.handle(record)


def leave_out_banner() -> None:
    """Let ``faust worker`` print no table when it starts. Relies on that making a command's class registers it."""

    class worker(faust_worker):  # noqa: N801  # the command's name
        __doc__ = faust_worker.__doc__

        def on_worker_created(self, worker: Worker) -> None:
            """Print nothing."""


def _clean(text: str) -> str:
    """Return *text* without lone surrogates: they have no place in JSON."""
    return text.encode("utf-8", "backslashreplace").decode()
