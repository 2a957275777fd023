"""Faust's own table recovery has nothing to do here: each partition restores itself (``tables.partition``).

Stock recovery would hang on a transactional changelog, for it waits for the offset before the end, which is a
control record; and it restores one record at a time. It would also wait for a broker that is away, for a minute and a
half. Relies on faust-streaming 0.15.3: ``Recovery._build_offsets`` says from which offset on a changelog partition is
read, after ``_build_highwaters`` has said where it ends, and ``TableManager.recovery`` makes the service.
``tests/functional/test_faust_seams.py`` fails when that changes.
"""

from __future__ import annotations

from typing import Any, Final

from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery

#: The offset of a partition's last record, in Faust's recovery, when there is none.
_NOTHING: Final = -1


class NothingToRecover(Recovery):
    """Recovery that finds every changelog partition empty, and asks nobody."""

    async def _build_highwaters(self, consumer: Any, tps: Any, destination: Any, title: str) -> None:
        destination.clear()
        destination.update(dict.fromkeys(tps, _NOTHING))

    async def _build_offsets(self, consumer: Any, tps: Any, destination: Any, title: str) -> None:
        for tp in tps:  # a Counter, whose update() would add
            destination[tp] = _NOTHING


class SelfRestoringTables(TableManager):
    """Faust's table manager, for tables that restore themselves."""

    @property
    def recovery(self) -> Recovery:
        if self._recovery is None:
            self._recovery = NothingToRecover(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery
