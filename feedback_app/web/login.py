"""``/feedback/login`` and ``/feedback/logout``: a cookie for browsers, which can't send a token with every request."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import Any, Final, cast
from urllib.parse import parse_qs

import msgspec
from aiohttp import web
from faust.web import Request, Response, View

from feedback_app.web.accepting import prefers_html
from feedback_app.web.attempts import Attempts
from feedback_app.web.login_page import LOGIN, LOGOUT, local_path, login_page
from feedback_app.web.origin import came_by_tls, is_of_this_origin
from feedback_app.web.sessions import COOKIE, SESSION_S, Sessions

logger = logging.getLogger(__name__)

_MOST_BYTES: Final = 16 << 10
_READ_S: Final = 5.0
_LOG_EVERY_S: Final = 60.0
_FORM: Final = "application/x-www-form-urlencoded"
_JSON: Final = "application/json"


class _Given(msgspec.Struct):
    """What a login says."""

    token: str
    next: str = ""


_read_json: Final = msgspec.json.Decoder(_Given).decode


class Login:
    """Answers logins and logouts. It belongs to the event loop."""

    def __init__(self, sessions: Sessions, attempts: Attempts | None = None) -> None:
        self._sessions = sessions
        self._attempts = attempts or Attempts()
        self._quiet_until = 0.0

    async def log_in(self, request: web.Request) -> web.Response:
        """Set the cookie for the right token, whether a form or a program has sent it."""
        if is_of_this_origin(request) is False:
            return _problem(403, "a page of another site can't log anybody in")
        if request.content_type not in {_FORM, _JSON}:
            return _problem(415, f"the content type must be {_FORM} or {_JSON}")
        by_form = request.content_type == _FORM
        body = await _body(request)
        if isinstance(body, web.Response):
            return body
        given = _from_form(body) if by_form else _from_json(body)
        if given is None:
            return _problem(400, "the body must have a text named token")
        if wait_s := math.ceil(self._attempts.wait_s()):
            # Right ones too: else the answers would still tell them apart.
            return _refused(given, by_form, 429, "too many wrong logins; try again later", {"Retry-After": str(wait_s)})
        if not self._sessions.is_token(given.token):
            self._attempts.take()
            self._log(request)
            return _refused(given, by_form, 401, "this is not the token", {"WWW-Authenticate": "Bearer"})
        answer = _go_to(local_path(given.next)) if by_form else web.Response(status=204)
        _set_cookie(answer, request, self._sessions.begin(), SESSION_S)
        return answer

    async def log_out(self, request: web.Request) -> web.Response:
        """Take the cookie away. What it held stays valid until it ends: nobody keeps a list of sessions."""
        if is_of_this_origin(request) is False:
            return _problem(403, "a page of another site can't log anybody out")
        answer = _go_to(LOGIN) if prefers_html(request) else web.Response(status=204)
        _set_cookie(answer, request, "", 0)
        return answer

    def _log(self, request: web.Request) -> None:
        """Warn, at most once a minute."""
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + _LOG_EVERY_S
            logger.warning("a login from %s with a wrong token", request.remote)


def login_views(sessions: Sessions | None) -> dict[str, type[View]]:
    """Return the views, by path; none when there is no token to log in with."""
    if sessions is None:
        return {}
    login = Login(sessions)

    class LogIn(View):
        """The form, and what it sends."""

        async def get(self, request: Request, **_: Any) -> Response:
            return cast(Response, login_page(cast(web.Request, request).query.get("next", "")))

        async def post(self, request: Request, **_: Any) -> Response:
            return cast(Response, await login.log_in(cast(web.Request, request)))

    class LogOut(View):
        """Ends a browser's session."""

        async def post(self, request: Request, **_: Any) -> Response:
            return cast(Response, await login.log_out(cast(web.Request, request)))

    return {LOGIN: LogIn, LOGOUT: LogOut}


async def _body(request: web.Request) -> bytes | web.Response:
    """Return the body, or the answer to one that is too large or takes too long."""
    body = bytearray()
    try:
        async with asyncio.timeout(_READ_S):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > _MOST_BYTES:
                    return _problem(413, f"the body is larger than {_MOST_BYTES} bytes")
    except TimeoutError:
        return _problem(408, "the body took too long")
    except (web.RequestPayloadError, ConnectionError):
        return _problem(400, "the body ended too early, or was not sent as announced")
    return bytes(body)


def _from_form(body: bytes) -> _Given | None:
    try:
        fields = parse_qs(body.decode(), max_num_fields=10, strict_parsing=True, keep_blank_values=True)
        return _Given(fields["token"][0], fields.get("next", [""])[0])
    except (ValueError, KeyError):
        return None


def _from_json(body: bytes) -> _Given | None:
    try:
        return _read_json(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _refused(given: _Given, by_form: bool, status: int, problem: str, headers: dict[str, str]) -> web.Response:
    if by_form:
        return login_page(given.next, problem[:1].upper() + problem[1:] + ".", status=status, headers=headers)
    return _problem(status, problem, headers)


def _problem(status: int, error: str, headers: dict[str, str] | None = None) -> web.Response:
    return web.json_response({"error": error}, status=status, headers=headers)


def _go_to(path: str) -> web.Response:
    return web.Response(status=303, headers={"Location": path})


def _set_cookie(answer: web.Response, request: web.Request, value: str, seconds: int) -> None:
    answer.headers["Cache-Control"] = "no-store"
    answer.set_cookie(
        COOKIE, value, max_age=seconds, path="/feedback", httponly=True, samesite="Strict", secure=came_by_tls(request)
    )
