"""What a client accepts, by its ``Accept…`` headers."""

from __future__ import annotations

from aiohttp import web


def prefers_html(request: web.Request) -> bool:
    """Say whether a page is wanted rather than JSON; programs, which accept anything or say nothing, want JSON."""
    accept = request.headers.get("Accept", "")
    return quality(accept, "text/html", "text/*", "*/*") > quality(accept, "application/json", "application/*", "*/*")


def takes_gzip(request: web.Request) -> bool:
    """Say whether an answer may be compressed."""
    return quality(request.headers.get("Accept-Encoding", ""), "gzip", "*") > 0


def quality(header: str, *names: str) -> float:
    """Return how much is thought of the first of *names* that *header* has; 0 where it has none of them.

    Args:
        names: from the most to the least specific one.
    """
    given: dict[str, float] = {}
    for part in header.split(","):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        given.setdefault(name, _weight(parameters))
    return next((given[name] for name in names if name in given), 0.0)


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
