"""Whether every part of the worker still does what it must; a part that has died or hangs is named.

Two things are noted: *steps* that are under way, each of which must end by itself within seconds, whatever the broker
and the database do; and *signs* that something has ended for good. What lasts for too long is a reason to be restarted.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, Final, TypeVar, cast

from feedback_app.errors import FeedbackError

_T = TypeVar("_T")

#: Twice what a call to the broker may take.
_OVERDUE_S: Final = 20.0
_LETHAL_S: Final = 60.0


class Dead(FeedbackError):
    """A part of the worker has died or hangs."""


class Liveness:
    """Notes what is under way, and for how long.

    Time is what :meth:`advance` is told of, not the machine's: a process that was frozen finds nothing overdue when it
    wakes up. Steps may begin and end in any thread; all else belongs to the event loop.

    Args:
        overdue_s: what lasts for longer makes the worker count as dead.
        lethal_s: what lasts for longer ends it.
    """

    def __init__(self, overdue_s: float = _OVERDUE_S, lethal_s: float = _LETHAL_S) -> None:
        self.lethal_s = lethal_s
        self._overdue_s = overdue_s
        self._now = 0.0
        # One operation of a dict each: threads need no lock.
        self._steps: dict[Hashable, tuple[str, float]] = {}
        self._signs: dict[str, float] = {}

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Note a step for the length of the block; *what* says what is wrong when it does not end."""
        key = object()
        self.begin(key, what)
        try:
            yield
        finally:
            self.end(key)

    def begin(self, key: Hashable, what: str) -> None:
        """Note a step, under a name of its own, until :meth:`end`; does nothing when it is under way already."""
        self._steps.setdefault(key, (what, self._now))

    def end(self, key: Hashable) -> None:
        """Forget a step; does nothing when there is none."""
        self._steps.pop(key, None)

    def note(self, signs: Iterable[str]) -> None:
        """Say which signs there are now; one that was there the last time has lasted since then."""
        self._signs = {sign: self._signs.get(sign, self._now) for sign in signs}

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now += seconds

    def reasons(self) -> list[str]:
        """Return, in words, why the worker counts as dead; none when it is alive."""
        return self._lasting(self._overdue_s)

    def lethal(self) -> list[str]:
        """Return, in words, why the worker must end; none when it need not."""
        return self._lasting(self.lethal_s)

    def _lasting(self, seconds: float) -> list[str]:
        noted = [*list(self._steps.values()), *self._signs.items()]
        return [f"{what}, for {self._now - since:.0f} s" for what, since in noted if self._now - since > seconds]


def watched(client: _T, name: str, liveness: Liveness | None) -> _T:
    """Return *client* with every call being a step.

    For librdkafka's clients: their calls take their own timeouts, which have to be well below what is overdue. Some are
    known to ignore them (librdkafka issue 5456).
    """
    return client if liveness is None else cast(_T, _Watched(client, name, liveness))


class _Watched:
    def __init__(self, client: Any, name: str, liveness: Liveness) -> None:
        self._client = client
        self._name = name
        self._liveness = liveness

    def __getattr__(self, method: str) -> Callable[..., Any]:
        call, liveness = getattr(self._client, method), self._liveness
        what = f"{self._name}: {method} does not return"

        # It must not lead back to this object: nothing closes a producer but its last reference, and a circle would
        # keep its threads until the garbage collector comes by.
        @wraps(call)
        def step(*args: Any, **kwargs: Any) -> Any:
            with liveness.step(what):
                return call(*args, **kwargs)

        setattr(self, method, step)  # from now on it is found without coming here
        return step
