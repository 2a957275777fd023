"""A worker's traces reach a collector; one that is away holds nothing up."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from feedback_app.embedded.process import free_port
from feedback_app.settings import Settings
from feedback_app.traffic import Traffic, scenario, send, spread
from feedback_app.verification import verify
from tests.services.workers import SHORT_WINDOWS, StartWorker, terminate

MakeSettings = Callable[..., Settings]

_EVENTS = 300


class Collector:
    """Takes what is handed on by OTLP over HTTP."""

    def __init__(self) -> None:
        #: What came, as it came.
        self.bodies: list[bytes] = []
        self.services: set[str] = set()
        self.spans: list[Any] = []

    def take(self, body: bytes) -> None:
        self.bodies.append(body)
        for each in ExportTraceServiceRequest.FromString(body).resource_spans:
            named = {attribute.key: attribute.value.string_value for attribute in each.resource.attributes}
            self.services.add(f"{named['service.name']} {named['service.instance.id']}")
            self.spans += [span for scope in each.scope_spans for span in scope.spans]


@contextmanager
def collecting() -> Iterator[tuple[str, Collector]]:
    """Run a collector; yield its address, and what it has."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            collector.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, daemon=True)
        serving.start()
        yield f"http://127.0.0.1:{server.server_port}", collector
        server.shutdown()
        serving.join()


@pytest.fixture
def ours(embedded_broker: str, settings: MakeSettings) -> Settings:
    return settings(embedded_broker, **SHORT_WINDOWS | {"tracing": True, "store_items": True})


def count(settings: Settings) -> None:
    """Send events, and wait until all are counted and their windows closed."""
    plan = scenario(settings, seed=11, agents=10, late_share=0.02, invalid_share=0.02)
    send(settings, plan, spread(_EVENTS, 60), Traffic(), lambda sent: None)
    verdict = verify(settings, 60, until_closed=True)
    assert verdict.verified, verdict
    assert (verdict.input, verdict.open) == (_EVENTS, 0)


def number(span: Any, name: str) -> int:
    """Return an attribute of a span."""
    (value,) = (each.value.int_value for each in span.attributes if each.key == f"feedback.{name}")
    return int(value)


def test_a_collector_gets_the_spans_of_folds_and_closes(
    ours: Settings, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collecting() as (address, collector):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        # By itself it would hand nothing on during this test: so what comes at the end is not lost.
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")
        monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2048")
        worker = start_worker(ours)
        count(ours)
        assert collector.spans == []
        assert terminate(worker) == 0

    assert collector.services == {f"feedback-app {ours.web_host}:{ours.web_port}"}
    by_id = {span.span_id: span for span in collector.spans}
    parents = Counter((span.name, by_id[span.parent_span_id].name) for span in by_id.values() if span.parent_span_id)
    assert set(parents) == {
        *(("items", "fold"), ("transaction", "fold")),
        *(("upsert", "close"), ("transaction", "close")),
    }
    folds = [span for span in by_id.values() if span.name == "fold"]
    closes = [span for span in by_id.values() if span.name == "close"]
    # What is forwarded is read, and told, once more where it belongs.
    assert sum(number(span, "records") - number(span, "forwarded") for span in folds) == _EVENTS
    assert sum(number(span, "closed") for span in closes) == sum(number(span, "events") for span in closes) > 0
    assert all(span.trace_id == by_id[span.parent_span_id].trace_id for span in by_id.values() if span.parent_span_id)
    for span in closes:
        (link,) = span.links
        fold = by_id[link.span_id]
        assert (fold.name, number(fold, "partition")) == ("fold", number(span, "partition"))
        assert fold.trace_id != span.trace_id
        assert fold.end_time_unix_nano <= span.start_time_unix_nano
    assert not any(b"agent-" in body or b"feedback-0" in body for body in collector.bodies)


@pytest.mark.parametrize("silent", [False, True], ids=["refuses", "says nothing"])
def test_a_worker_works_and_stops_in_time_while_the_collector_is_away(
    ours: Settings, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1] if silent else free_port()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        worker = start_worker(ours)
        count(ours)
        assert terminate(worker) == 0
    logged = worker.log.read_text()
    assert "Traceback" not in logged
    if not silent:  # it takes ten seconds to find out that nobody answers
        assert logged.count("encountered while exporting spans batch") == 1
