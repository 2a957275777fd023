"""The worker says why it is degraded, for as long as it is."""

from __future__ import annotations

from contextlib import suppress

import pytest

from feedback_app.errors import DatabaseError
from feedback_app.health import Health


@pytest.fixture
def health() -> Health:
    return Health()


def test_at_first_all_is_well(health: Health) -> None:
    assert health.degraded() == []


def test_a_write_under_way_is_no_reason_by_itself(health: Health) -> None:
    with health.waiting_for_database():
        assert health.degraded() == []


# write     [--------- x ----------]
# degraded              |----------|
def test_a_write_that_fails_and_is_repeated_is_a_reason_until_it_succeeds(health: Health) -> None:
    with health.waiting_for_database():
        health.database_failed(DatabaseError("connection refused"))
        assert health.degraded() == ["waiting for the database: connection refused"]
    assert health.degraded() == []
    with health.waiting_for_database():
        assert health.degraded() == [], "the next write has not failed"


# writes     [---- x -----------]
#                [----------]
# degraded        |---------|
def test_the_reason_goes_once_any_write_is_taken(health: Health) -> None:
    """The other one is tried again in its own time, up to half a minute later."""
    with health.waiting_for_database():
        with health.waiting_for_database():
            health.database_failed(DatabaseError("no primary"))
            assert health.degraded() == ["waiting for the database: no primary"]
        assert health.degraded() == []


# writes     [---- x ---]  [------]  [------]
#                  [--------]  [-------]
# degraded         |----|
def test_the_reason_goes_although_there_is_always_a_write_under_way(health: Health) -> None:
    first, second = health.waiting_for_database(), health.waiting_for_database()
    first.__enter__()
    health.database_failed(DatabaseError("no primary"))
    for _ in range(3):
        second.__enter__()
        first.__exit__(None, None, None)
        assert health.degraded() == []
        first, second = second, health.waiting_for_database()
    first.__exit__(None, None, None)


# writes     [---- x --------- x ---]
#              [----------]
# degraded        |-------|    |----|
def test_a_write_that_fails_again_is_a_reason_again(health: Health) -> None:
    with health.waiting_for_database():
        with health.waiting_for_database():
            health.database_failed(DatabaseError("no primary"))
        health.database_failed(DatabaseError("not allowed"))
        assert health.degraded() == ["waiting for the database: not allowed"]
    assert health.degraded() == []


# writes     [---- x ----------]
#              [-- x -- given up
# degraded         |-----------|
def test_a_write_that_is_given_up_does_not_say_that_the_database_is_back(health: Health) -> None:
    with health.waiting_for_database():
        with suppress(RuntimeError), health.waiting_for_database():
            health.database_failed(DatabaseError("no primary"))
            raise RuntimeError("crash")
        assert health.degraded() == ["waiting for the database: no primary"]
    assert health.degraded() == []


def test_a_write_that_is_given_up_is_not_waited_for(health: Health) -> None:
    with suppress(RuntimeError), health.waiting_for_database():
        health.database_failed(DatabaseError("no primary"))
        raise RuntimeError("crash")
    assert health.degraded() == []


def test_an_error_without_a_write_is_no_reason(health: Health) -> None:
    health.database_failed(DatabaseError("long ago"))
    assert health.degraded() == []


def test_windows_that_can_not_be_stored_are_counted(health: Health) -> None:
    for document_id in ("a|0|1000", "b|0|1000", "a|0|1000"):
        health.stale(document_id)
    health.refused("c|0|1000")
    assert health.degraded() == [
        "2 windows have a document that is ahead of the state",
        "1 windows are refused by the database",
    ]


def test_a_window_that_is_closed_after_all_is_no_reason_any_more(health: Health) -> None:
    health.stale("a|0|1000")
    health.refused("a|0|1000")
    health.refused("b|0|1000")
    health.closed("a|0|1000")
    assert health.degraded() == ["1 windows are refused by the database"]
    health.closed("b|0|1000")
    health.closed("never heard of")
    assert health.degraded() == []
