"""``POST /feedback/events``: feedback events over HTTP, answered once the broker has them.

Nothing here blocks the event loop, and nothing grows with what clients do: a body is read up to a limit of bytes and of
time, few are read at once, and the publisher takes no more events than it has room for. An event counts as accepted
when all in-sync replicas have it: before that the answer is not 202, however long it takes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Final, cast

import msgspec
from aiohttp import web
from faust.web import Request, Response, View

from feedback_app.core.events import Event, Invalid
from feedback_app.errors import FeedbackError, PublishError, QueueFull
from feedback_app.liveness import Liveness
from feedback_app.models import decode
from feedback_app.publisher import FeedbackPublisher
from feedback_app.settings import Settings

logger = logging.getLogger(__name__)

MOST_EVENTS: Final = 500
MOST_BYTES: Final = 2 << 20
#: Bodies that are being read at once; with what they are decoded to, their memory is bounded by this.
_MOST_READING: Final = 16
_READ_S: Final = 10.0
#: The broker's time to acknowledge. Events are given up before their request is, so that they are not sent long after
#: their client was told to repeat them; the difference lets the last ones be told.
_DELIVERY_S: Final = 8.0
_ANSWER_S: Final = 10.0
#: How long requests can hold up the end of the worker, and then the broker that does not answer.
_STOP_S: Final = 1.5
_CLOSE_S: Final = 0.5
_LOG_EVERY_S: Final = 10.0

_PROBLEM_FULL: Final = "too many events wait for the broker; nothing was sent"
_PROBLEM_BUSY: Final = "too many requests are being read; nothing was sent"
_PROBLEM_STOPPING: Final = "the worker is being stopped; nothing was sent"
_PROBLEM_BROKER: Final = "the broker can't be reached; nothing was sent"
_PROBLEM_BODY: Final = f"the body must be a JSON object, or a list of 1 to {MOST_EVENTS} of them"

_read_list: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_read_one: Final = msgspec.json.Decoder(msgspec.Raw).decode
_encode: Final = msgspec.json.Encoder().encode

MakePublisher = Callable[[], FeedbackPublisher]


class Ingest:
    """The publisher behind the page, and the requests that wait for it. It belongs to the event loop.

    Args:
        make: makes a publisher that confirms. It is called in a thread, with the first event.
    """

    def __init__(self, settings: Settings, liveness: Liveness, *, make: MakePublisher | None = None) -> None:
        self._make = make or (lambda: FeedbackPublisher(settings, delivery_timeout_s=_DELIVERY_S, confirms=True))
        self._liveness = liveness
        self._publisher: FeedbackPublisher | None = None
        self._making = asyncio.Lock()
        self._requests = 0
        self._reading = 0
        self._stopping = False
        self._idle = asyncio.Event()
        self._ended = asyncio.Event()
        self._retired: set[asyncio.Task[None]] = set()
        self._quiet_until = 0.0

    async def answer(self, request: web.Request) -> web.Response:
        """Read a request, send its events, and say what became of them."""
        if self._stopping:
            return _problem(503, _PROBLEM_STOPPING)
        self._requests += 1
        try:
            return await self._answer(request)
        finally:
            self._requests -= 1
            if not self._requests:
                self._idle.set()

    async def close(self) -> None:
        """Take no more requests, give those under way a moment, then answer them; close the publisher."""
        self._stopping = True
        self._idle.clear()
        if self._requests:
            try:
                async with asyncio.timeout(_STOP_S):
                    await self._idle.wait()
            except TimeoutError:
                self._ended.set()
        async with self._making:  # one that is being made will be there
            if self._publisher is not None:
                self._retire(self._publisher)
        if self._retired:
            await asyncio.wait(self._retired)

    def signs(self) -> list[str]:
        """Return, in words, what has ended and should not have."""
        if self._publisher is None or self._publisher.works or self._stopping:
            return []
        return ["the publisher's thread has ended"]

    async def _answer(self, request: web.Request) -> web.Response:
        if request.content_type != "application/json":
            # Browsers send other types, without asking, on behalf of any page.
            return _problem(415, "the content type must be application/json")
        if "Content-Encoding" in request.headers:
            return _problem(415, "the body must not be compressed")
        if (request.content_length or 0) > MOST_BYTES:
            return _too_large()
        if self._reading >= _MOST_READING:
            return _problem(429, _PROBLEM_BUSY, retry_after_s=1)
        self._reading += 1
        try:
            body = await self._body(request)
            if isinstance(body, web.Response):
                return body
            await self._ready()
            # From here to the queue without a pause: what a body is decoded to is there once, not for every request.
            events = _events(bytes(body))
        except FeedbackError as error:
            return self._broken(error)
        finally:
            self._reading -= 1
        if isinstance(events, str):
            return _problem(400, events)
        return await self._send(events)

    async def _body(self, request: web.Request) -> bytearray | web.Response:
        """Return the body, or the answer to one that is too large or takes too long."""
        body = bytearray()
        reading = asyncio.ensure_future(self._read(request, body))
        if not await self._within(_READ_S, reading):
            reading.cancel()
            return _problem(503, _PROBLEM_STOPPING) if self._stopping else _problem(408, "the body took too long")
        return reading.result() or body

    async def _read(self, request: web.Request, body: bytearray) -> web.Response | None:
        try:
            async for chunk in request.content.iter_any():
                if len(body) + len(chunk) > MOST_BYTES:
                    return _too_large()
                body += chunk
        except (web.RequestPayloadError, ConnectionError):
            return _problem(400, "the body ended too early, or was not sent as announced")
        return None

    async def _ready(self) -> None:
        """Make the publisher, if there is none."""
        async with self._making:
            if self._publisher is None and not self._stopping:
                self._publisher = await asyncio.to_thread(self._make)

    async def _send(self, events: list[Event | Invalid]) -> web.Response:
        rejected = [
            {"index": index, "error": event.error} for index, event in enumerate(events) if isinstance(event, Invalid)
        ]
        valid = [(index, event) for index, event in enumerate(events) if isinstance(event, Event)]
        if not valid:
            return _json(422, {"error": "no event is valid; nothing was sent", "accepted": 0, "rejected": rejected})
        publisher = self._publisher
        if publisher is None or self._stopping:
            return _problem(503, _PROBLEM_STOPPING)
        try:
            outcome = publisher.offer([(event.agent_id.encode(), _encode(event)) for _, event in valid])
        except QueueFull:
            return _problem(429, _PROBLEM_FULL, retry_after_s=1)
        except PublishError as error:
            self._retire(publisher)
            return self._broken(error)
        delivery = asyncio.wrap_future(outcome)
        known = await self._within(_ANSWER_S, delivery)
        errors = delivery.result() if known else ["not known yet"] * len(valid)
        missing = [index for (index, _), error in zip(valid, errors, strict=True) if error]
        answer: dict[str, Any] = {"accepted": len(valid) - len(missing), "rejected": rejected}
        if not missing:
            return _json(202, answer)
        self._log("%s of %s events were not acknowledged: %s", len(missing), len(valid), next(filter(None, errors)))
        reason = (
            f"the broker has not acknowledged {len(missing)} of {len(valid)} events; they may have arrived or still "
            "arrive: send those again, with the same feedbackIds"
        )
        return _json(503, {"error": reason, **answer, "unacknowledged": missing}, retry_after_s=5)

    async def _within(self, seconds: float, work: asyncio.Future[Any]) -> bool:
        """Say whether *work* is done within *seconds*, and before the worker must end; it is not cancelled."""
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait({work, ended}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
        return work.done()

    def _broken(self, error: FeedbackError) -> web.Response:
        self._log("events can't be sent: %s", error.message)
        return _problem(503, _PROBLEM_BROKER, retry_after_s=5)

    def _log(self, message: str, *about: object) -> None:
        """Warn, at most every ten seconds: a broker that is away would fill the log."""
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + _LOG_EVERY_S
            logger.warning(message, *about)

    def _retire(self, publisher: FeedbackPublisher) -> None:
        """Close a publisher, in the background."""
        if self._publisher is publisher:
            self._publisher = None
        task = asyncio.create_task(asyncio.to_thread(self._close, publisher))
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)

    def _close(self, publisher: FeedbackPublisher) -> None:
        with self._liveness.step("the publisher does not close"):
            try:
                publisher.close(_CLOSE_S)
            except PublishError as error:
                logger.warning("%s", error.message)


def event_views(ingest: Ingest) -> dict[str, type[View]]:
    """Return the views, by path."""

    class Events(View):
        """Takes events."""

        async def post(self, request: Request, **_: Any) -> Response:
            return cast(Response, await ingest.answer(cast(web.Request, request)))

    return {"/feedback/events": Events}


def _events(body: bytes) -> list[Event | Invalid] | str:
    """Decode a body as a worker would decode each of its events; return what is wrong where it is no list of them.

    Events are cut out of the body, and decoded one by one: objects are never made of what is no event.
    """
    try:
        body.decode()
        one = bytes(_read_one(body))
        raws = [one] if one.startswith(b"{") else _read_list(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _PROBLEM_BODY
    if not 1 <= len(raws) <= MOST_EVENTS:
        return _PROBLEM_BODY
    return list(decode([bytes(raw) for raw in raws]))


def _too_large() -> web.Response:
    return _problem(413, f"the body is larger than {MOST_BYTES} bytes")


def _problem(status: int, error: str, *, retry_after_s: int = 0) -> web.Response:
    return _json(status, {"error": error}, retry_after_s=retry_after_s)


def _json(status: int, answer: dict[str, Any], *, retry_after_s: int = 0) -> web.Response:
    headers = {"Retry-After": str(retry_after_s)} if retry_after_s else {}
    return web.json_response(body=msgspec.json.encode(answer), status=status, headers=headers)
