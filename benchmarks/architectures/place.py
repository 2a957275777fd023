"""Where the architectures run: one broker, one database, and names that no two runs share."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.architectures.contenders import Architecture
from benchmarks.architectures.fleet import Fleet
from benchmarks.bench import worker_settings
from feedback_app.embedded.database import EmbeddedDatabase
from feedback_app.settings import Settings

#: What a refusal to measure, or to be right, is told to.
Say = Callable[[str], None]

_WAITS_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Place:
    """What all runs share.

    Attributes:
        servers: the broker, ``host:port``.
        database: the one that all write to, each run under a name of its own.
        prefix: what the names of topics, groups and databases start with.
        directory: for state and logs.
        say: is told how it goes.
    """

    servers: str
    database: EmbeddedDatabase
    prefix: str
    directory: Path
    say: Say
    timeout: float = _WAITS_S
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def settings(self, architecture: Architecture, **more: Any) -> Settings:
        """Return the settings of a new run: those that all have, less what the architecture has of its own."""
        unique = f"{self.prefix}{next(self._numbers)}-{architecture.name}"
        named = {
            "topic_prefix": f"{unique}-",
            "mongodb_url": self.database.url,
            "mongodb_database": unique.replace("_", "-"),
        }
        return worker_settings(
            self.servers, unique, self.directory / unique, **{**named, **more, **architecture.settings}
        )

    def fleet(self, architecture: Architecture, settings: Settings) -> Fleet:
        """Return its processes, not started yet."""
        return Fleet(architecture, settings, self.directory)
