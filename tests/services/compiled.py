"""The compiled part of the application, where it is installed."""

from __future__ import annotations

import importlib.util

from feedback_app import compiled
from feedback_app.core.counts import Counts, MakeCounts
from feedback_app.transport.clients import ConfluentClient, MakeClient
from feedback_app.transport.readers import ConfluentReader, MakeReader


def is_installed() -> bool:
    return importlib.util.find_spec("feedback_native") is not None


def every_counts() -> list[MakeCounts]:
    """Return all that can count: Python, and the compiled part where there is one."""
    return [Counts, compiled.counts()] if is_installed() else [Counts]


def every_client() -> dict[str, MakeClient]:
    """Return all that can hand the records of a transaction to librdkafka, by name."""
    return {"confluent": ConfluentClient} | ({"compiled": compiled.client()} if is_installed() else {})


def every_reader() -> dict[str, MakeReader]:
    """Return all that can read a partition of the source topics, by name."""
    return {"confluent": ConfluentReader} | ({"compiled": compiled.reader()} if is_installed() else {})
