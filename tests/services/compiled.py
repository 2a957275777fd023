"""The compiled part of the application, where it is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import pytest

from feedback_app import compiled
from feedback_app.core.counts import Counts, MakeCounts
from feedback_app.transport.clients import ConfluentClient, MakeClient
from feedback_app.transport.readers import ConfluentReader, MakeReader


def is_installed() -> bool:
    return importlib.util.find_spec("feedback_native") is not None


def every_counts() -> list[MakeCounts]:
    """Return all that can count: Python, and the compiled part where there is one."""
    return [Counts, compiled.counts()] if is_installed() else [Counts]


def every_client() -> list[Any]:
    """Return all that can hand the records of a transaction to librdkafka, as pytest's parameters."""
    made: dict[str, MakeClient] = {"confluent": ConfluentClient}
    return _by_name(made | ({"compiled": compiled.client()} if is_installed() else {}))


def every_reader() -> list[Any]:
    """Return all that can read a partition of the source topics, as pytest's parameters."""
    made: dict[str, MakeReader] = {"confluent": ConfluentReader}
    return _by_name(made | ({"compiled": compiled.reader()} if is_installed() else {}))


def _by_name(named: Mapping[str, object]) -> list[Any]:
    return [pytest.param(value, id=name) for name, value in named.items()]
