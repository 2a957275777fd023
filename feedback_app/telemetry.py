"""Traces by OpenTelemetry, for ``FEEDBACK_TRACING=true``: the only module that uses it, and imported only then.

Everything but whether to trace is set by OpenTelemetry's own variables (``OTEL_*``), which its SDK reads by itself.
Spans are handed on by a thread of the SDK; when they can't be, they are dropped.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, StatusCode

from feedback_app import __version__
from feedback_app.errors import SettingsError
from feedback_app.tracing import Attribute, SpanName
from feedback_app.tracing import Span as AnySpan

#: Attributes of ours are told from those of others by this.
_PREFIX: Final = "feedback."
#: How long the end of a worker waits for what is still to be handed on.
_FLUSH_S: Final = 1.0
#: A collector that is away is told of so often.
_TELL_S: Final = 60.0
_EXPORT_LOG: Final = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
#: Logs what it can't make out of ``OTEL_EXPORTER_OTLP_HEADERS``.
_HEADER_LOG: Final = "opentelemetry.util.re"


class OpenTelemetrySpan:
    """Implements ``feedback_app.tracing.Span``."""

    def __init__(self, span: Span) -> None:
        self._span = span

    @property
    def link(self) -> Link:
        """What another span is tied to this one by."""
        return Link(self._span.get_span_context())

    def set(self, **attributes: Attribute) -> None:
        self._span.set_attributes(_named(attributes))

    def event(self, name: str) -> None:
        self._span.add_event(name)


class OpenTelemetryTracer:
    """Implements ``feedback_app.tracing.Tracer``.

    Args:
        provider: makes the spans. What processes them is added by :meth:`start`.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("feedback_app", __version__)

    @contextmanager
    def span(
        self, name: SpanName, *, follows: AnySpan | None = None, **attributes: Attribute
    ) -> Iterator[OpenTelemetrySpan]:
        """See ``feedback_app.tracing.Tracer``."""
        with self._tracer.start_as_current_span(
            name,
            attributes=_named(attributes),
            links=[follows.link] if isinstance(follows, OpenTelemetrySpan) else None,
            # Not what an error says: that may quote an event, or an address with a password.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield OpenTelemetrySpan(span)
            except BaseException as error:
                span.set_attribute("error.type", type(error).__name__)
                if isinstance(error, Exception):  # a step that is cancelled, with its partition, has not failed
                    span.set_status(StatusCode.ERROR)
                raise

    def start(self) -> None:
        """See ``feedback_app.tracing.Tracer``."""
        _log_with_care()
        with _told_as_setting():
            self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))

    async def stop(self) -> None:
        """See ``feedback_app.tracing.Tracer``."""
        # In a thread that does not keep the process: a collector that takes a connection and then says nothing holds
        # it up for ten seconds.
        flushing = threading.Thread(target=self._provider.shutdown, name="last-traces", daemon=True)
        flushing.start()
        await asyncio.to_thread(flushing.join, _FLUSH_S)


def open_tracer(instance: str) -> OpenTelemetryTracer:
    """Return a tracer that hands nothing on yet.

    Args:
        instance: tells the worker from others, as ``service.instance.id``, unless ``OTEL_RESOURCE_ATTRIBUTES`` does.

    Raises:
        SettingsError: a setting of OpenTelemetry is wrong.
    """
    ours = {"service.name": "feedback-app", "service.version": __version__, "service.instance.id": instance}
    asked_for = OTELResourceDetector().detect().attributes
    with _told_as_setting():
        # What is given here would win.
        resource = Resource.create({name: value for name, value in ours.items() if name not in asked_for})
        return OpenTelemetryTracer(TracerProvider(resource=resource, shutdown_on_exit=False))


def _named(attributes: dict[str, Attribute]) -> dict[str, Attribute]:
    return {_PREFIX + name: value for name, value in attributes.items()}


@contextmanager
def _told_as_setting() -> Iterator[None]:
    """Tell the SDK's complaints about its variables as our own: it checks some of them, and says so by ValueError."""
    try:
        yield
    except ValueError as error:
        raise SettingsError(f"FEEDBACK_TRACING=true: one of the variables OTEL_* is wrong: {error}") from None


class _Seldom(logging.Filter):
    """Lets one record a minute pass, with the type of an error for the error: that has the whole address in it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._next = 0.0

    def filter(self, record: logging.LogRecord) -> bool:
        now = self._clock()
        if now < self._next:
            return False
        self._next = now + _TELL_S
        if isinstance(record.args, tuple):
            record.args = tuple(type(arg).__name__ if isinstance(arg, Exception) else arg for arg in record.args)
        return True


class _NoValues(logging.Filter):
    """Leaves out what is complained of: it may be a header with a token."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.args = tuple("..." for _ in record.args or ())
        return True


_SELDOM: Final = _Seldom()
_NO_VALUES: Final = _NoValues()


def _log_with_care() -> None:
    """Let libraries tell of a collector that is away now and then, not at each try, and of no secret at all."""
    logging.getLogger(_EXPORT_LOG).addFilter(_SELDOM)
    logging.getLogger(_HEADER_LOG).addFilter(_NO_VALUES)
    # The HTTP library logs each request, with the address.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.INFO)
