"""Who may see the pages: whoever has the token, or a session that began with it.

A session is a time at which it ends, signed with a key that follows from the token. So it is stored nowhere, every
worker with the same token knows it, and another token ends all of them. The cookie that a browser keeps it in tells
nobody the token; trying tokens out on a stolen one is slow, since the key is.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import urlsafe_b64encode
from functools import cached_property
from typing import Final

from aiohttp import web
from pydantic import SecretStr

from feedback_app.core.clock import Clock, SystemClock
from feedback_app.settings import Settings

COOKIE: Final = "feedback_session"
#: A working day; then the token is asked for again.
SESSION_S: Final = 12 * 3600
#: For what other workers are asked on somebody's behalf; their clocks may differ by so much.
_BETWEEN_WORKERS_S: Final = 600
_VALUE: Final = re.compile(r"(?P<ends>[0-9]{1,12})\.(?P<signature>[a-zA-Z0-9_-]{43}=)", re.ASCII)
_SALT: Final = b"feedback-app session 1"


class Sessions:
    """Begins sessions, and knows the token, and the sessions that have not ended."""

    def __init__(self, token: SecretStr, clock: Clock) -> None:
        self._token = token
        self._clock = clock

    def is_token(self, given: str) -> bool:
        """Say whether *given* is the token, in a time that does not tell how much of it is right."""
        return hmac.compare_digest(_digest(given), _digest(self._token.get_secret_value()))

    def begin(self, seconds: int = SESSION_S) -> str:
        """Return the value of a cookie for a session that begins now."""
        ends = str(self._clock.now_ms() // 1_000 + seconds)
        return f"{ends}.{self._sign(ends)}"

    def is_open(self, value: str) -> bool:
        """Say whether *value*, as a cookie holds it, is that of a session that has not ended."""
        match = _VALUE.fullmatch(value)
        if match is None or not hmac.compare_digest(match["signature"], self._sign(match["ends"])):
            return False
        return int(match["ends"]) * 1_000 > self._clock.now_ms()

    def _sign(self, ends: str) -> str:
        return urlsafe_b64encode(hmac.digest(self._key, ends.encode(), "sha256")).decode()

    @cached_property
    def _key(self) -> bytes:
        """Made when a session is first seen: it takes some 50 ms, which commands should not."""
        return hashlib.scrypt(_bytes(self._token.get_secret_value()), salt=_SALT, n=2**14, r=8, p=1, dklen=32)


_VOUCHED: Final = web.RequestKey("vouched", Sessions)


def sessions_of(settings: Settings, clock: Clock | None = None) -> Sessions | None:
    """Return the sessions that ``FEEDBACK_WEB_TOKEN`` gives; None when there is no token."""
    return None if settings.web_token is None else Sessions(settings.web_token, clock or SystemClock())


def let_in(request: web.Request, sessions: Sessions) -> bool:
    """Say whether a request has the cookie of a session that has not ended; then we vouch for it to other workers."""
    if not sessions.is_open(request.cookies.get(COOKIE, "")):
        return False
    request[_VOUCHED] = sessions
    return True


def vouched(request: web.Request) -> dict[str, str]:
    """Return the headers by which another worker lets a request of ours in, on behalf of one that a session let in.

    It is a new session each time: a stream that was begun with the old one may outlive that, and others share what it
    asks for.
    """
    sessions = request.get(_VOUCHED)
    return {} if sessions is None else {"Cookie": f"{COOKIE}={sessions.begin(_BETWEEN_WORKERS_S)}"}


def _digest(text: str) -> bytes:
    return hashlib.sha256(_bytes(text)).digest()


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")  # a header may hold bytes that are no text
