"""Work in a process of its own, beside what is measured: this one's threads would wait for each other."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from benchmarks.measuring import ContenderFailed

_T = TypeVar("_T")

#: Says whether to stop.
Stopped = Callable[[], bool]


@contextmanager
def beside(work: Callable[[Stopped], _T]) -> Iterator[Callable[[], _T]]:
    """Run *work*, which is pickled, until what is given is called; that returns what *work* returns.

    Raises:
        ContenderFailed: the process has ended by itself; why, it has written to stderr.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(work, theirs), daemon=True)
    process.start()
    theirs.close()

    def received() -> Any:
        try:
            return ours.recv()
        except (EOFError, OSError) as error:
            raise ContenderFailed(f"{work} has ended by itself") from error

    def stop() -> _T:
        ours.send("stop")
        result: _T = received()
        return result

    try:
        received()  # it has begun
        yield stop
    finally:
        process.kill()
        process.join()


def _run(work: Callable[[Stopped], object], pipe: Connection) -> None:
    pipe.send("begun")
    pipe.send(work(pipe.poll))
