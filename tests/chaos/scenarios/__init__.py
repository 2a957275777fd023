"""Everything that happens to workers in production, one module for each kind; each registers its scenarios."""

from __future__ import annotations

from tests.chaos.registry import SCENARIOS
from tests.chaos.scenarios import brokers, databases, inputs, killing, members, storage

__all__ = ["SCENARIOS", "brokers", "databases", "inputs", "killing", "members", "storage"]
