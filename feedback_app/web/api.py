"""What the JSON pages have in common: parameters that are checked, and problems in a clear form that quote nothing."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, cast

import msgspec
from aiohttp import web
from faust.web import Request, Response, View

from feedback_app.web.peers import JSON
from feedback_app.web.shared import TooMany

#: Nothing here is worth keeping, and proxies must not.
HEADERS: Final = {"Cache-Control": "no-store"}
_DECIMALS: Final = re.compile(r"[0-9]{1,15}", re.ASCII)

encode: Final = msgspec.json.Encoder().encode


class Problem(Exception):
    """A request that can't be answered as it is, or not now.

    Args:
        status: HTTP's.
        message: what is wrong, in words of ours.
        retry_after_s: when to try again.
    """

    def __init__(self, status: int, message: str, *, retry_after_s: int = 0) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.retry_after_s = retry_after_s

    def answer(self) -> web.Response:
        headers = {"Retry-After": str(self.retry_after_s)} if self.retry_after_s else {}
        return web.Response(
            status=self.status, body=encode({"error": self.message}), content_type=JSON, headers={**HEADERS, **headers}
        )


def json_view(answer: Callable[..., Awaitable[bytes]]) -> type[View]:
    """Return a page that answers GET with JSON.

    Args:
        answer: returns the JSON, given the request and what was matched in its path. May raise :class:`Problem`, where
            there is none.
    """

    class JsonView(View):
        """A page of JSON."""

        async def get(self, request: Request, **matched: Any) -> Response:
            try:
                body = await answer(request, **matched)
            except Problem as problem:
                return cast(Response, problem.answer())
            except TooMany:
                return cast(Response, Problem(503, "too many different requests at once", retry_after_s=1).answer())
            return cast(Response, web.Response(body=body, content_type=JSON, headers=HEADERS))

    return JsonView


def parameter(request: Request, name: str) -> str | None:
    """Return a parameter of the query; None where it is not given.

    Raises:
        Problem: it is given twice.
    """
    query: Any = cast(Any, request).query
    values: list[str] = query.getall(name, [])
    if len(values) > 1:
        raise Problem(400, f"{name}: must be given once")
    return values[0] if values else None


def integer(request: Request, name: str, default: int, least: int, most: int) -> int:
    """Return a whole number from *least* to *most* out of the query.

    Raises:
        Problem: it is none.
    """
    given = parameter(request, name)
    if given is None:
        return default
    if _DECIMALS.fullmatch(given) is None or not least <= int(given) <= most:
        raise Problem(400, f"{name}: must be a whole number from {least} to {most}")
    return int(given)


def choice(request: Request, name: str, choices: Sequence[str]) -> str:
    """Return one of *choices* out of the query; the first one where none is given.

    Raises:
        Problem: it is none of them.
    """
    given = parameter(request, name)
    if given is None:
        return choices[0]
    if given not in choices:
        raise Problem(400, f"{name}: must be one of {', '.join(choices)}")
    return given
