"""What of a record is passed on: all of it where it fits, its first bytes where it does not, and never silently."""

from __future__ import annotations

import pytest

from feedback_app.core.events import Headers
from feedback_app.core.headers import UNREADABLE, Header
from feedback_app.cutting import Kept, cut
from feedback_app.topics import MAX_INPUT_BYTES

KEY = 8_192
FITS = MAX_INPUT_BYTES + KEY


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (None, None),
        (b"", b""),
        (None, bytes(FITS)),
        (bytes(FITS), None),
        (bytes(KEY), bytes(MAX_INPUT_BYTES)),
        (bytes(MAX_INPUT_BYTES), bytes(KEY)),
    ],
)
def test_what_fits_is_passed_on_whole(key: bytes | None, value: bytes | None) -> None:
    assert cut(key, value, ()) == Kept(key, value, [], truncated=False)


def test_the_producers_own_headers_go_along_and_ours_do_not() -> None:
    headers: Headers = [("trace", b"1"), ("feedback-truncated", b"5"), ("trace", None)]
    assert cut(b"k", b"v", headers) == Kept(b"k", b"v", [("trace", b"1"), ("trace", None)], truncated=False)


@pytest.mark.parametrize(
    ("key", "value", "kept_key", "kept_value"),
    [
        (None, FITS + 1, None, MAX_INPUT_BYTES),
        (FITS + 1, None, KEY, None),
        (1, FITS, 1, MAX_INPUT_BYTES),
        (FITS, 1, KEY, 1),
        (KEY + 1, MAX_INPUT_BYTES, KEY, MAX_INPUT_BYTES),
        (5_000_000, 5_000_000, KEY, MAX_INPUT_BYTES),
    ],
)
def test_key_and_value_are_cut_to_their_first_bytes(
    key: int | None, value: int | None, kept_key: int | None, kept_value: int | None
) -> None:
    def content(size: int | None) -> bytes | None:
        return None if size is None else (b"0123456789" * (size // 10 + 1))[:size]

    size = b"%d" % ((key or 0) + (value or 0))
    kept = cut(content(key), content(value), ())
    assert kept == Kept(content(kept_key), content(kept_value), [(Header.TRUNCATED, size)], truncated=True)


def test_headers_that_do_not_fit_are_left_out_and_cut_nothing_else() -> None:
    headers = [("trace", bytes(3_000_000)), ("other", b"x")]
    size = b"%d" % (2 + 3_000_000 + 5 + 1 + 5 + 2 * 10)
    assert cut(b"k", b"v", headers) == Kept(b"k", b"v", [(Header.TRUNCATED, size)], truncated=True)
    assert cut(b"k", b"v", [("", None)] * 200_000).headers == [(Header.TRUNCATED, b"2000002")]


def test_headers_that_can_not_be_read_are_left_out() -> None:
    kept = cut(b"k", b"v", UNREADABLE)
    assert (kept.key, kept.value, kept.truncated) == (b"k", b"v", True)
    assert [name for name, _ in kept.headers] == [Header.TRUNCATED]
    assert not cut(b"k", b"v", list(UNREADABLE)).truncated, "a producer that gives its header that name is no such case"
