"""What the worker did in the last minute, as one line of its log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import Final

from prometheus_client import CollectorRegistry

logger = logging.getLogger(__name__)

_RECORDS: Final = "feedback_records_total"
_CLOSED: Final = "feedback_windows_closed_total"
_TRANSACTIONS: Final = "feedback_transactions_total"
_LAG: Final = "feedback_lag_records"
_PARTITIONS: Final = "feedback_partitions"


class Rates:
    """Tells in the log what a worker's metrics have become since it last told something.

    Args:
        registry: the worker's metrics.
        every_s: the seconds between two lines.
    """

    def __init__(self, registry: CollectorRegistry, every_s: float = 60.0) -> None:
        self._metrics = registry.restricted_registry([_RECORDS, _CLOSED, _TRANSACTIONS, _LAG, _PARTITIONS])
        self.every_s = every_s
        self._told: Counter[tuple[str, str]] = Counter()
        self._since = time.monotonic()

    async def run(self) -> None:
        """Tell again and again, until cancelled."""
        while True:
            await asyncio.sleep(self.every_s)
            self.tell()

    def tell(self) -> None:
        """Log one line: nothing when nothing was done, and there is nothing to do."""
        now = self._read()
        lag, partitions = now.pop((_LAG, ""), 0), now.pop((_PARTITIONS, "ready"), 0)
        began, self._since = self._since, time.monotonic()
        done = now - self._told
        self._told = now
        if not done and not lag:
            return
        transactions = {outcome: count for (name, outcome), count in done.items() if name == _TRANSACTIONS}
        committed = transactions.pop("committed", 0)
        logger.info(
            "in %.0f s: %s records counted, %s late, %s dead letters, %s forwarded; %s windows closed; "
            "%s transactions%s%s",
            self._since - began,
            *(done[_RECORDS, outcome] for outcome in ("counted", "late", "dead_letter", "forwarded")),
            done[_CLOSED, ""],
            committed,
            "".join(f", {count} {outcome}" for outcome, count in transactions.items()),
            # Without partitions, as at the end, nobody knows.
            f"; lag {lag} in {partitions} partitions" if partitions else "",
        )

    def _read(self) -> Counter[tuple[str, str]]:
        """Return sums by metric and outcome or state; over everything else, such as the partition."""
        totals: Counter[tuple[str, str]] = Counter()
        for family in self._metrics.collect():
            for sample in family.samples:
                kind = sample.labels.get("outcome") or sample.labels.get("state", "")
                totals[sample.name, kind] += int(sample.value)
        return totals
