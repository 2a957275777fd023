"""What has to end and does not, and what has ended and must not, is named once it has lasted for too long."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from feedback_app.liveness import Liveness, watched


@pytest.fixture
def liveness() -> Liveness:
    return Liveness(overdue_s=20, lethal_s=60)


# step      [------------------------------]
# dead                 |-------------------|
# lethal                         |---------|
#           0         20        60
def test_a_step_that_does_not_end_is_a_reason_until_it_does(liveness: Liveness) -> None:
    with liveness.step("the call does not return"):
        liveness.advance(20)
        assert liveness.reasons() == []
        liveness.advance(1)
        assert liveness.reasons() == ["the call does not return, for 21 s"]
        assert liveness.lethal() == []
        liveness.advance(40)
        assert liveness.lethal() == ["the call does not return, for 61 s"]
    assert liveness.reasons() == liveness.lethal() == []


def test_steps_of_one_name_are_told_apart(liveness: Liveness) -> None:
    with liveness.step("a call"):
        liveness.advance(21)
        with liveness.step("a call"):
            assert liveness.reasons() == ["a call, for 21 s"]
        assert liveness.reasons() == ["a call, for 21 s"]


def test_a_step_that_fails_has_ended(liveness: Liveness) -> None:
    with suppress(RuntimeError), liveness.step("a call"):
        raise RuntimeError("refused")
    liveness.advance(21)
    assert liveness.reasons() == []


def test_a_step_that_has_begun_does_not_begin_again(liveness: Liveness) -> None:
    liveness.begin("batch", "it does not arrive")
    liveness.advance(15)
    liveness.begin("batch", "it does not arrive")
    liveness.advance(10)
    assert liveness.reasons() == ["it does not arrive, for 25 s"]
    liveness.end("batch")
    liveness.end("batch")
    assert liveness.reasons() == []


# sign      x x x . x x x
# dead          |     (not again: it was gone in between)
def test_a_sign_counts_from_when_it_was_first_seen_without_a_break(liveness: Liveness) -> None:
    for signs, reasons in [
        (["it has ended"], []),
        (["it has ended"], []),
        (["it has ended"], ["it has ended, for 24 s"]),
        ([], []),
        (["it has ended"], []),
        (["it has ended", "another too"], []),
    ]:
        liveness.note(signs)
        assert liveness.reasons() == reasons
        liveness.advance(12)


def test_every_call_of_a_watched_client_is_a_step_by_itself(liveness: Liveness) -> None:
    class Client:
        def commit(self, timeout: float, *, again: bool = False) -> tuple[float, bool]:
            liveness.advance(21)
            assert liveness.reasons() == ["the client: commit does not return, for 21 s"]
            return timeout, again

    client = watched(Client(), "the client", liveness)
    for _ in range(2):
        assert client.commit(10, again=True) == (10, True)
        assert liveness.reasons() == []


def test_a_client_that_nobody_watches_stays_what_it_is() -> None:
    client = object()
    assert watched(client, "the client", None) is client


def test_steps_begin_and_end_in_any_thread_while_reasons_are_asked_for(liveness: Liveness) -> None:
    def work() -> None:
        for _ in range(2_000):
            with liveness.step("a call"):
                pass

    with ThreadPoolExecutor(4) as threads:
        working = [threads.submit(work) for _ in range(4)]
        while not all(each.done() for each in working):
            assert liveness.reasons() == []
        for each in working:
            each.result()
    liveness.advance(21)
    assert liveness.reasons() == []


def test_a_watched_client_goes_with_its_last_reference() -> None:
    """Nothing else closes a producer: a circle would keep its threads, at every rebalance, until a collection."""

    class Client:
        def poll(self) -> int:
            return 1

    client = Client()
    gone = weakref.ref(client)
    seen = watched(client, "the client", Liveness())
    gc.disable()
    try:
        assert seen.poll() == 1
        del client, seen
        assert gone() is None
    finally:
        gc.enable()
