"""What being watched costs: a dashboard that is open, and Prometheus, which scrapes every five seconds."""

from __future__ import annotations

import select
import socket
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from benchmarks.bench import Bench, Point
from benchmarks.measuring import ContenderFailed
from benchmarks.scale.asking import PATIENCE_S, answers_ok
from benchmarks.scale.beside import Stopped, beside
from benchmarks.scale.results import Bar, Part, attempt
from benchmarks.workload import Workload

LEAST_OF_UNWATCHED: Final = 0.95

#: What is asked for how often, besides the stream.
_EVERY_S: Final = {"/metrics": 5.0, "/feedback/history": 10.0}
_TICK_S: Final = 0.2


def watched(bench: Bench, workload: Workload, rounds: int, say: Callable[[str], None]) -> Part:
    """Measure backlogs with and without watchers, in turns."""
    points: dict[str, list[Point]] = {"unwatched": [], "watched": []}
    for number in range(rounds):
        order = list(points) if number % 2 == 0 else list(reversed(points))
        for name in order:
            point = attempt(name, partial(_backlog, bench, f"{name}-{number}", workload, watch=name == "watched"), say)
            points[name].append(point)
    ratios = [after.rate / before.rate for before, after in zip(*points.values(), strict=True) if before.rate]
    value = statistics.median(ratios) if len(ratios) == rounds else None
    bar = Bar("watched_rate", "events/s watched to unwatched, the median", value, LEAST_OF_UNWATCHED, at_most=False)
    return Part("watched", "a dashboard open, and scraped", [row for rows in points.values() for row in rows], [bar])


def _backlog(bench: Bench, name: str, workload: Workload, *, watch: bool) -> Point:
    given = bench.prepare(name, workload)
    if not watch:
        return bench.measure(name, given)
    with beside(partial(_watch, given.settings.web_host, given.settings.web_port)) as seen:
        point = bench.measure(name, given)
        events, scrapes = seen()
    if not events or not scrapes:
        raise ContenderFailed(f"nobody watched: {events} bytes of the stream, {scrapes} answers")
    return point


def _watch(host: str, port: int, stopped: Stopped) -> tuple[int, int]:
    """Watch until told to stop; return how many bytes the stream has sent, and how many other answers came."""
    received = answers = 0
    due = dict.fromkeys(_EVERY_S, 0.0)
    stream: socket.socket | None = None
    while not stopped():
        try:
            stream = stream or _follow(host, port)
            if select.select([stream], [], [], _TICK_S)[0]:
                chunk = stream.recv(1 << 16)
                received += len(chunk)
                stream = stream if chunk else None
            for path, at in due.items():
                if time.monotonic() >= at:
                    answers += answers_ok(host, port, path)
                    due[path] = time.monotonic() + _EVERY_S[path]
        except OSError:  # it is not there yet
            stream = None
            time.sleep(_TICK_S)
    return received, answers


def _follow(host: str, port: int) -> socket.socket:
    stream = socket.create_connection((host, port), PATIENCE_S)
    stream.sendall(f"GET /feedback/stream HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
    return stream
