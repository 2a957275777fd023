"""Single events that are followed: to their agent's page, and to their window's document."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import deque
from typing import Any, Final, Self

import pymongo

from benchmarks.workload import Totals, produce, producer_to
from feedback_app.provisioning import WINDOWS_COLLECTION
from feedback_app.settings import Settings
from feedback_app.topics import Topics

_PAGE_S: Final = 0.005
_DOCUMENT_S: Final = 0.02
#: An event that is not seen for so long counts as so late, and the next one is sent.
_PATIENCE_S: Final = 10.0
_PAUSE_S: Final = 0.03


class Marker:
    """Sends one event after the other, each of an agent of its own, and follows it.

    Attributes:
        sent: the right totals.
        failure: why it has given up; empty when it has not.
    """

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings = settings
        self._name = name.rstrip("%")
        self._counts: dict[tuple[str, int], int] = {}
        self._counted: list[float] = []
        self._documents: list[float] = []
        self._open: deque[tuple[float, str]] = deque()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._guard, args=(work,)) for work in (self._mark, self._look)]
        self.failure = ""

    @property
    def sent(self) -> Totals:
        return self._counts

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> list[float]:
        """Send no more; return the seconds that each event took to be seen on its page."""
        self._over.set()
        self._threads[0].join()
        return self._counted

    def documents(self) -> list[float]:
        """Wait for the last document; return the seconds that each took from its window's end."""
        self._threads[1].join()
        return self._documents

    def _guard(self, work: Any) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001  # a thread's error would go to stderr, and the figures would be believed
            self.failure = f"{type(error).__name__}: {error}"
            self._over.set()

    def _mark(self) -> None:
        settings, size = self._settings, self._settings.batch_time_ms
        topic = Topics.of(settings).feedback
        producer = producer_to(settings.bootstrap_servers, linger_ms=0)
        pages = http.client.HTTPConnection(settings.web_host, settings.web_port, timeout=_PATIENCE_S)
        number = 0
        while not self._over.wait(_PAUSE_S):
            number += 1
            agent_id = f"marked-{self._name}-{number}"
            started, now_ms = time.monotonic(), time.time_ns() // 1_000_000
            event = {
                "feedbackId": agent_id,
                "agentId": agent_id,
                "userId": "u",
                "rating": "neutral",
                "timestamp": now_ms,
            }
            produce(producer, topic, json.dumps(event).encode(), agent_id.encode())
            producer.flush(_PATIENCE_S)
            start = now_ms - now_ms % size
            self._counts[agent_id, start] = 1
            self._open.append(((start + size) / 1_000, f"{agent_id}|{start}|{size}"))
            while not _shows(pages, agent_id) and time.monotonic() - started < _PATIENCE_S:
                time.sleep(_PAGE_S)
            self._counted.append(time.monotonic() - started)
        pages.close()

    def _look(self) -> None:
        """Look for the documents of windows that have ended."""
        url, database = self._settings.mongodb_url.get_secret_value(), self._settings.mongodb_database
        with pymongo.MongoClient[dict[str, Any]](url) as client:
            windows = client[database][WINDOWS_COLLECTION]
            while self._open or not self._over.is_set():
                time.sleep(_DOCUMENT_S)
                ended = {id_: at for at, id_ in list(self._open) if at < time.time()}
                if not ended:
                    continue
                found = {document["_id"] for document in windows.find({"_id": {"$in": list(ended)}}, {"_id": 1})}
                now = time.time()
                late = {id_ for id_, at in ended.items() if now - at > _PATIENCE_S + self._settings.grace_ms / 1_000}
                self._documents.extend(now - at for id_, at in ended.items() if id_ in found | late)
                for _ in range(len(self._open)):
                    waiting = self._open.popleft()
                    if waiting[1] not in found | late:
                        self._open.append(waiting)


def _shows(pages: http.client.HTTPConnection, agent_id: str) -> bool:
    pages.request("GET", f"/feedback/agents/{agent_id}")
    answer = pages.getresponse()
    body = answer.read()
    return answer.status == http.HTTPStatus.OK and bool(json.loads(body)["open"])
