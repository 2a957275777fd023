"""What a recount finds, and its verdict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from feedback_app.core.aggregate import Aggregate
from feedback_app.core.documents import Document, window_document
from feedback_app.core.windows import Window

_SAMPLES: Final = 10
#: Not the input's doing (when and how often a window was closed), or compared in a way of their own.
_NOT_COMPARED: Final = {"closedAt", "revision", "tags", "otherTags"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """The outcome of a recount.

    Attributes:
        input: records on the input; one that was forwarded is one record.
        counted: records in open windows and, for windows that are not open, in documents, as these say it.
        late: input records found on the late topic.
        dead_lettered: input records found on the dead-letter topic.
        replayed: dead letters that were sent again, each as a record of the input.
        open: open windows. They are no differences; each stands for its document, if there is one yet.
        documents: window documents.
        expired: windows whose documents have expired; their last aggregated events stand for them.
        aggregated_events: distinct event ids.
        missing: things that must be there and are not: a window's document, a letter, an aggregated event.
        extra: things that must not be there: a document of no record, a second letter, a second aggregated event.
        different: things that are there and not as they must be.
        samples: some of these differences, in words.
        reason: why nothing could be decided; empty where it could.
    """

    input: int = 0
    counted: int = 0
    late: int = 0
    dead_lettered: int = 0
    replayed: int = 0
    open: int = 0
    documents: int = 0
    aggregated_events: int = 0
    expired: int = 0
    missing: int = 0
    extra: int = 0
    different: int = 0
    samples: tuple[str, ...] = ()
    reason: str = ""

    @property
    def verified(self) -> bool:
        """Whether every record ended in exactly one place."""
        return not (self.reason or self.missing or self.extra or self.different)

    @property
    def exit_code(self) -> int:
        """0: equal; 1: different; 2: nothing could be decided."""
        if self.reason:
            return 2
        return 0 if self.verified else 1

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "verified": self.verified}


@dataclass(slots=True)
class Differences:
    """Counts differences, and remembers some in words."""

    missing_count: int = 0
    extra_count: int = 0
    different_count: int = 0
    samples: list[str] = field(default_factory=list)

    def missing(self, what: str) -> None:
        self.missing_count += 1
        self._remember(f"missing: {what}")

    def extra(self, what: str) -> None:
        self.extra_count += 1
        self._remember(f"extra: {what}")

    def different(self, what: str) -> None:
        self.different_count += 1
        self._remember(f"different: {what}")

    def _remember(self, line: str) -> None:
        if len(self.samples) < _SAMPLES:
            self.samples.append(line)


def explain_window(window: Window, found: Document, expected: Aggregate) -> str:
    """Say how a window's document differs from what was counted again; empty where it does not."""
    wanted = window_document(window, expected)
    parts = [
        f"{name} is {found.get(name)!r}, must be {value!r}"
        for name, value in wanted.items()
        if name not in _NOT_COMPARED and found.get(name) != value
    ]
    parts.extend(_explain_tags(found, wanted))
    return f"window {window.document_id}: {', '.join(parts[:3])}" if parts else ""


def _explain_tags(found: Document, wanted: Document) -> Iterator[str]:
    try:
        tags = {entry["tag"]: entry["count"] for entry in found["tags"]}
        others = found["otherTags"]
        total = sum(tags.values()) + others
    except (KeyError, TypeError):
        yield f"tags are {found.get('tags')!r} and {found.get('otherTags')!r}"
        return
    wanted_tags = {entry["tag"]: entry["count"] for entry in wanted["tags"]}
    if wanted["otherTags"]:
        # Which tags came first, and so have a count of their own, depends on the order in which partitions were read.
        if total != sum(wanted_tags.values()) + wanted["otherTags"]:
            yield f"{total} tags, must be {sum(wanted_tags.values()) + wanted['otherTags']}"
    elif tags != wanted_tags or others:
        yield f"tags are {tags!r} and {others} others, must be {wanted_tags!r}"
