"""``/feedback/dead-letters``, and one of them: read in a thread of their own, one page at a time, with a deadline.

What a letter holds was written by whoever liked to. Here it is data in JSON, and never anything else.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from faust.web import Request, View

from feedback_app.deadletters import cursor
from feedback_app.deadletters.browsing import Browser, NoLetter, TookTooLong
from feedback_app.deadletters.topic import LetterRecords
from feedback_app.errors import FeedbackError
from feedback_app.settings import Settings
from feedback_app.web.api import Problem, encode, integer, json_view, parameter
from feedback_app.web.shared import Shared

logger = logging.getLogger(__name__)

MOST_LETTERS: Final = 200
_FRESH_S: Final = 1.0
#: Shown for so much longer, while new ones are being read.
_STALE_S: Final = 5.0
_ANSWER_S: Final = 8.0
#: Requests that wait for the thread; the page that is being made is one of them.
_MOST_WAITING: Final = 8
#: After so long without a request the connection is given up.
_IDLE_S: Final = 60.0
_NUMBER: Final = re.compile(r"[0-9]{1,19}", re.ASCII)


class LetterDesk:
    """The thread in which letters are read, and its connection. It belongs to the event loop."""

    def __init__(self, settings: Settings, *, open_records: Callable[[Settings], Any] = LetterRecords) -> None:
        self._settings = settings
        self._open = open_records
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="dead-letters")
        self._records: Any = None
        self._browser: Browser | None = None
        self._waiting = 0
        self._stopping = False
        self._idle: asyncio.TimerHandle | None = None
        self._answers = Shared[bytes](_FRESH_S, stale_s=_STALE_S, most=2 * _MOST_WAITING)

    async def page(self, limit: int, before: str | None, error: str | None) -> bytes:
        """Return a page of letters as JSON.

        Raises:
            Problem: *before* is no cursor; or the broker is away, or too many ask.
        """
        try:
            left = None if before is None else cursor.decode(before)
        except ValueError:
            raise Problem(400, "before: must be what the last answer had as next") from None

        def make(browser: Browser) -> bytes:
            return encode(browser.page(limit, left, error)._asdict())

        return await self._answers.get((limit, before, error), lambda: self._in_thread(make))

    async def letter(self, partition: int, offset: int) -> bytes:
        """Return one letter as JSON.

        Raises:
            Problem: there is none; or the broker is away, or too many ask.
        """
        return await self._in_thread(lambda browser: encode(browser.letter(partition, offset)))

    def close(self) -> None:
        """Take no more requests, and let go of the broker; nobody waits for that."""
        self._stopping = True
        if self._idle is not None:
            self._idle.cancel()
        self._thread.submit(self._disconnect)
        self._thread.shutdown(wait=False)

    async def _in_thread(self, make: Callable[[Browser], bytes]) -> bytes:
        if self._stopping:
            raise Problem(503, "the worker is being stopped")
        if self._waiting >= _MOST_WAITING:
            raise Problem(503, "too many ask for dead letters", retry_after_s=1)
        self._waiting += 1
        if self._idle is not None:
            self._idle.cancel()
        wanted_until = time.monotonic() + _ANSWER_S
        work = asyncio.get_running_loop().run_in_executor(self._thread, self._work, make, wanted_until)
        work.add_done_callback(self._done)
        try:
            async with asyncio.timeout(_ANSWER_S):
                return await asyncio.shield(work)
        except NoLetter:
            raise Problem(404, "there is no such letter") from None
        except TimeoutError:
            raise Problem(503, "the broker takes too long to send dead letters", retry_after_s=5) from None
        except FeedbackError as error:
            # Its message may name the broker.
            logger.info("dead letters can't be read: %s", error.message)
            raise Problem(503, "the broker does not send dead letters; is it up?", retry_after_s=5) from None

    def _done(self, work: asyncio.Future[bytes]) -> None:
        self._waiting -= 1
        if not work.cancelled():
            work.exception()  # is told to whoever is still there
        if not self._waiting and not self._stopping:
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(_IDLE_S, self._thread.submit, self._disconnect)

    def _work(self, make: Callable[[Browser], bytes], wanted_until: float) -> bytes:
        """In the thread: connect, if need be, and make an answer, if somebody still waits for it."""
        try:
            if time.monotonic() > wanted_until:
                raise TookTooLong
            if self._browser is None:
                self._records = self._open(self._settings)
                self._browser = Browser(self._records)
            return make(self._browser)
        except FeedbackError:
            self._disconnect()  # the next one begins anew
            raise

    def _disconnect(self) -> None:
        """In the thread."""
        records, self._records, self._browser = self._records, None, None
        if records is not None:
            records.close()


def letter_views(desk: LetterDesk) -> dict[str, type[View]]:
    """Return the views, by path."""

    async def letters(request: Request) -> bytes:
        limit = integer(request, "limit", 50, 1, MOST_LETTERS)
        return await desk.page(limit, parameter(request, "before"), parameter(request, "error"))

    async def letter(_: Request, *, partition: str, offset: str) -> bytes:
        return await desk.letter(_number("partition", partition), _number("offset", offset))

    return {
        "/feedback/dead-letters": json_view(letters),
        "/feedback/dead-letters/{partition}/{offset}": json_view(letter),
    }


def _number(name: str, text: str) -> int:
    if _NUMBER.fullmatch(text) is None or int(text) >= 1 << 63:
        raise Problem(400, f"{name}: must be a whole number")
    return int(text)
