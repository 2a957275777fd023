"""Asking a running worker for what only it can read: its RocksDB is locked."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from typing import Any, Final
from urllib.parse import urlsplit

import click
import orjson

from feedback_app.deadletters.letters import printable
from feedback_app.errors import FeedbackError

#: A worker may ask others before it answers, for five seconds.
_ANSWER_S: Final = 10.0
_LARGEST_ANSWER: Final = 64 << 20


class WorkerError(FeedbackError):
    """The worker does not answer, or refuses."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would take the token elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        return None


def ask(url: str, path: str, token: str | None) -> dict[str, Any]:
    """Return the JSON object that the worker at *url* answers for *path*. No proxy gets to see the token.

    Raises:
        UsageError: *url* or *token* is none.
        WorkerError: what the worker said, or that it said nothing, in one line.
    """
    shown = _checked(url)
    headers = {"Accept": "application/json"}
    if token is not None:
        if not token.isprintable():
            raise click.UsageError("--token: has characters that no header can hold")
        headers["Authorization"] = f"Bearer {token}".encode().decode("latin-1")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirects)
    request = urllib.request.Request(shown + path, headers=headers)
    try:
        with opener.open(request, timeout=_ANSWER_S) as answer:
            return _object(shown, answer.read(_LARGEST_ANSWER + 1))
    except urllib.error.HTTPError as error:
        with error:
            raise WorkerError(f"{shown}: {_reason(error)}") from None
    except urllib.error.URLError as error:
        # Of a reason that is an error itself, the number and what it means; never where it was in the code.
        why = getattr(error.reason, "strerror", None) or type(error.reason).__name__
        raise WorkerError(f"{shown}: no answer ({why}); is a worker running there? See --url") from None
    except (OSError, http.client.HTTPException) as error:
        raise WorkerError(
            f"{shown}: no answer ({type(error).__name__}); is a worker running there? See --url"
        ) from None


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url)
        usable = parts.scheme in {"http", "https"} and parts.hostname and (parts.port or True)
    except ValueError:
        usable = False
    if not usable or not url.isprintable() or " " in url or parts.query or parts.fragment or "@" in parts.netloc:
        raise click.UsageError("--url: must look like http://host:port")
    return url.rstrip("/")


def _object(url: str, body: bytes) -> dict[str, Any]:
    answer: Any = None
    if len(body) <= _LARGEST_ANSWER:
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError:
            answer = None
    if not isinstance(answer, dict):
        raise WorkerError(f"{url}: the answer is not a worker's")
    return answer


def _reason(error: urllib.error.HTTPError) -> str:
    if error.code == 401:
        return "refused: the worker wants its token; see --token and FEEDBACK_WEB_TOKEN"
    try:
        said = orjson.loads(error.read(10_000))["error"]
    except (orjson.JSONDecodeError, TypeError, KeyError, OSError, http.client.HTTPException):
        return f"the answer is not a worker's (status {error.code})"
    return printable(str(said))
