"""The topics: their names, how they are made, and the check that they fit the settings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the names are needed where pydantic must not be
    from feedback_app.settings import Settings

TABLE_NAME = "feedback_windows"

#: How long the changelog keeps tombstones (Kafka's own default). A data dir that is older must be restored in full.
TOMBSTONES_KEPT_MS = 24 * 3600 * 1000

#: The largest value that is a feedback event (Kafka's default for a whole batch is this much, but *compressed*). Side
#: topics must take it, its key and our headers, however it compresses: ``feedback_app.cutting`` sees to that.
MAX_INPUT_BYTES = 1_048_588
MAX_SIDE_BYTES = MAX_INPUT_BYTES + 16_384


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as it should be."""

    name: str
    partitions: int
    config: dict[str, str]


@dataclass(frozen=True, slots=True)
class Topics:
    """The names of all topics, prefix included."""

    feedback: str
    repartition: str
    aggregates: str
    late: str
    dead_letter: str
    changelog: str
    partitions: int

    @classmethod
    def of(cls, settings: Settings) -> Topics:
        prefix = settings.topic_prefix
        return cls(
            feedback=f"{prefix}feedback",
            repartition=f"{prefix}feedback-repartition",
            aggregates=f"{prefix}feedback-aggregates",
            late=f"{prefix}feedback-late",
            dead_letter=f"{prefix}feedback-dead-letter",
            changelog=f"{prefix}{settings.app_id}-{TABLE_NAME}-changelog",
            partitions=settings.partitions,
        )

    @property
    def sources(self) -> tuple[str, str]:
        """The topics whose records are counted."""
        return (self.feedback, self.repartition)

    def specs(self) -> Iterator[TopicSpec]:
        """Every topic with the configuration that it is made with."""
        # The broker's clock decides what is "in the future": producers' clocks are not to be trusted.
        appended = {"message.timestamp.type": "LogAppendTime"}
        side = {"max.message.bytes": str(MAX_SIDE_BYTES)}
        yield TopicSpec(self.feedback, self.partitions, {**appended})
        # Never cut by time: a record that is not counted yet must stay.
        yield TopicSpec(self.repartition, self.partitions, {**appended, **side, "retention.ms": "-1"})
        yield TopicSpec(self.aggregates, self.partitions, {**side})
        yield TopicSpec(self.late, self.partitions, {**side})
        yield TopicSpec(self.dead_letter, self.partitions, {**side})
        yield TopicSpec(
            self.changelog,
            self.partitions,
            {**side, "cleanup.policy": "compact", "delete.retention.ms": str(TOMBSTONES_KEPT_MS)},
        )
