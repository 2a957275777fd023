"""Every error that the application raises on purpose. The docstring is the default message.

The base derives from click's exception, so that an error raised anywhere under a ``faust`` command is shown as one
line, without a stack trace, and ends the process with :attr:`exit_code`.
"""

from __future__ import annotations

import click


class FeedbackError(click.ClickException):
    """The feedback application failed."""

    exit_code = 1

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip())


class SettingsError(FeedbackError):
    """A setting is wrong."""

    exit_code = 2


class BrokerError(FeedbackError):
    """The Kafka broker could not be reached, or refused us."""


class TopicMismatch(BrokerError):
    """A topic exists with another number of partitions than configured."""


class DatabaseError(FeedbackError):
    """MongoDB could not be reached, or refused us."""


class StateError(FeedbackError):
    """The stored state of a partition contradicts the broker."""


class Fenced(FeedbackError):
    """Another worker has taken this partition over: nothing may be written on its behalf any more."""


class Aborted(FeedbackError):
    """The transaction was aborted and left nothing behind: the same records can be folded again."""


class PublishError(FeedbackError):
    """A feedback event could not be handed to Kafka."""


class QueueFull(PublishError):
    """Too many events wait for the broker already."""
