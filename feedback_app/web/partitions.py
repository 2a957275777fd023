"""``/feedback/partitions``: all partitions of the cluster, each as its owner sees it; any worker answers.

As with agents, the others are asked with the caller's token, at the addresses that they have told the group.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson
from faust.web import Request, Response, View
from yarl import URL

from feedback_app.core.documents import date, to_json
from feedback_app.core.state import BEGINNING
from feedback_app.web.peers import FORWARDED, JSON, NoPeer, ask_peer, own_url, owner_of
from tables.feedback_windows import FeedbackWindows
from tables.partition import OwnedPartition

_LARGEST_ANSWER: Final = 4 << 20
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?(Z|\+00:00)", re.ASCII)
_TIMES: Final = ("watermark", "floor", "newestOpenEnd", "silentSince")

Row = dict[str, Any]


def partition_views(app: Any, table: FeedbackWindows, partitions: int, sources: Sequence[str]) -> dict[str, type[View]]:
    """Return the views, by path. *sources* are the topics whose offsets are shown."""

    class Partitions(View):
        """Every partition, and who did not answer."""

        async def get(self, request: Request, **_: Any) -> Response:
            us = own_url(app)
            rows = {number: _own(number, owned, us, ready=ready) for number, owned, ready in table.held()}
            if FORWARDED in request.headers:
                return self._answer(rows.values(), [])
            metadata = app.assignor.tables_metadata()
            owners = {number: owner_of(metadata, table.changelog, number) for number in range(partitions)}
            others = sorted({url for number, url in owners.items() if url and url != us and number not in rows})
            answers = await asyncio.gather(*(self._ask(request, url) for url in others))
            theirs = dict(zip(others, answers, strict=True))
            for number in owners.keys() - rows.keys():
                rows[number] = _others(number, owners[number], theirs, sources)
            silent = [url for url, answer in theirs.items() if answer is None]
            return self._answer([rows[number] for number in sorted(rows)], silent)

        def _answer(self, rows: Any, unanswered: list[str]) -> Response:
            body = to_json({"partitions": list(rows), "unanswered": unanswered})
            return self.bytes(body, content_type=JSON)

        async def _ask(self, request: Request, url: str) -> Mapping[int, Row] | None:
            """Return what another worker says of its own partitions, by number; None when it does not answer."""
            try:
                status, body = await ask_peer(app, request, URL(f"{url}/feedback/partitions"), _LARGEST_ANSWER)
                return {row["partition"]: row for row in orjson.loads(body)["partitions"]} if status == 200 else None
            except (NoPeer, ValueError, TypeError, KeyError):
                return None  # away, or no worker

    return {"/feedback/partitions": Partitions}


def _own(number: int, owned: OwnedPartition, us: str, *, ready: bool) -> Row:
    """Return a partition of ours."""
    row: Row = {"partition": number, "owner": us, "state": "ready" if ready else "restoring"}
    if ready:
        record, newest = owned.state.record, owned.state.newest_end()
        row |= {
            "watermark": _time(record.watermark),
            "floor": _time(record.floor),
            "newestOpenEnd": _time(newest),
            "silentSince": _time(owned.silent_since_ms),
            "offsets": dict(record.offsets),
        }
    return row


def _others(
    number: int, owner: str | None, answers: Mapping[str, Mapping[int, Row] | None], sources: Sequence[str]
) -> Row:
    """Return a partition of another worker; of what it says, only what a worker says.

    Its state is ``unknown`` when the owner does not answer, or does not have it (it is changing hands).
    """
    row: Row = {"partition": number, "owner": owner, "state": "unknown"}
    said = (answers.get(owner) if owner else None) or {}
    found = said.get(number)
    if not isinstance(found, dict) or found.get("state") not in {"ready", "restoring"}:
        return row
    row["state"] = found["state"]
    if row["state"] == "ready":
        offsets = found.get("offsets")
        given: Row = offsets if isinstance(offsets, dict) else {}
        row |= {name: found[name] if _is_time(found.get(name)) else None for name in _TIMES}
        row["offsets"] = {topic: given[topic] for topic in sources if isinstance(given.get(topic), int)}
    return row


def _is_time(value: object) -> bool:
    return isinstance(value, str) and _TIME.fullmatch(value) is not None


def _time(ms: int | None) -> Any:
    return None if ms is None or ms == BEGINNING else date(ms)
