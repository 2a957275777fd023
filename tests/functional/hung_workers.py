"""A worker, ``faust -A tests.functional.hung_workers``, parts of which die or hang when it is told to.

It is told by a file ``fault`` in its data dir, with the name of one of :data:`FAULTS`. ``LIVENESS`` in the environment
has the two deadlines of :class:`Liveness`, in seconds.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable
from typing import Any, cast

from aiokafka.errors import GroupAuthorizationFailedError

from feedback_app import compiled
from feedback_app.factory import create_app
from feedback_app.liveness import Liveness
from feedback_app.settings import load_settings

_calls_hang: set[str] = set()


def hang() -> None:
    """Block for good, as a call into a C library would."""
    threading.Event().wait()


class Hanging:
    """A client of librdkafka's, one call of which hangs when it is told to."""

    def __init__(self, client: Any, call: str, told_by: str) -> None:
        self._client = client
        self._call = call
        self._told_by = told_by

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._client, name)

        def called(*args: Any, **kwargs: Any) -> Any:
            if name == self._call and self._told_by in _calls_hang:
                hang()
            return call(*args, **kwargs)

        return called


_made_client, _made_reader = compiled.client(), compiled.reader()
compiled.client = lambda: lambda config: cast(Any, Hanging(_made_client(config), "commit_transaction", "producer"))
compiled.reader = lambda: lambda config, number: cast(Any, Hanging(_made_reader(config, number), "consume", "source"))

_overdue_s, _lethal_s = os.environ["LIVENESS"].split()
app: Any = create_app(load_settings(), liveness=Liveness(float(_overdue_s), float(_lethal_s)))


def _in_consumer_thread(call: Callable[[], object]) -> None:
    app.consumer._thread.thread_loop.call_soon_threadsafe(call)


def _consumer_thread_ends() -> None:
    _in_consumer_thread(app.consumer._thread.thread_loop.stop)


def _consumer_thread_hangs() -> None:
    _in_consumer_thread(hang)


def _coordination_ends() -> None:
    _in_consumer_thread(app.consumer._thread._consumer._coordinator._coordination_task.cancel)


def _group_refuses() -> None:
    coordinator = app.consumer._thread._consumer._coordinator

    async def refuse(*args: Any) -> None:
        raise GroupAuthorizationFailedError(coordinator.group_id)

    coordinator.ensure_active_group = refuse
    _in_consumer_thread(coordinator.request_rejoin)


def _fetcher_ends() -> None:
    for task in list(app._fetcher._futures):
        task.cancel()


def _agent_ends() -> None:
    agent = app.agents["agents.feedback"]
    for task in list(agent.supervisor._futures):
        task.cancel()
    for actor in list(agent._actors):
        actor.actor_task.cancel()


def _agent_is_cancelled() -> None:
    for actor in list(app.agents["agents.feedback"]._actors):
        actor.actor_task.cancel()


def _fold_ends() -> None:
    for ownership in app.windows._owned.values():
        for task in ownership.tasks:
            task.cancel()


def _reader_ends() -> None:
    for reading in app.consumer._readings.values():
        reading.task.cancel()


FAULTS: dict[str, Callable[[], object]] = {
    "the agent ends": _agent_ends,
    "the agent is cancelled": _agent_is_cancelled,
    "the consumer's thread ends": _consumer_thread_ends,
    "the consumer's thread hangs": _consumer_thread_hangs,
    "the coordination ends": _coordination_ends,
    "the event loop hangs": lambda: time.sleep(3_600),
    "the fetcher ends": _fetcher_ends,
    "the fold ends": _fold_ends,
    "the group refuses": _group_refuses,
    "the producer hangs": lambda: _calls_hang.add("producer"),
    "the reader ends": _reader_ends,
    "the source hangs": lambda: _calls_hang.add("source"),
    "the streams hang": app.flow_control.suspend,
}


@app.task  # type: ignore[untyped-decorator]
async def obey() -> None:
    """Wait for the file, and do what it says."""
    told = app.settings.data_dir / "fault"
    while not told.exists():  # noqa: ASYNC110  # another process makes it
        await asyncio.sleep(0.05)
    FAULTS[told.read_text()]()
