"""What a failure of MongoDB speaks of: the server, which can take the same write later, or one document."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from feedback_app.sinks import SinkUnavailable

_LONGEST_MESSAGE: Final = 200
#: Where the driver's and the server's messages begin to quote the command, which holds what users have written.
_CHATTER: Final = re.compile(r"\{|, full error|, Timeout: | \(configured timeouts")

_DUPLICATE_KEY: Final = 11000

#: Codes of a failed command that blame one of its documents, without saying which: Overflow (nested too deeply),
#: InvalidBSON, BSONObjectTooLarge.
SOME_DOCUMENT_AT_FAULT: Final = frozenset({15, 22, 10334})

#: Codes with which the server may answer for one document of a bulk write, but which speak of the server, the cluster
#: or our rights: the same document can be stored later. From the categories of MongoDB's ``error_codes.yml``.
_SERVER_AT_FAULT: Final = frozenset(
    {
        *(6, 7, 89, 317, 384, 9001),  # network
        *(91, 189, 333, 10058, 10107, 11600, 11602, 13435, 13436),  # shutting down, no longer primary
        *(24, 46, 50, 202, 208, 262, 290, 407, 11601),  # locks, time limits, interruptions
        *(64, 75, 79, 100),  # write concern
        *(112, 117, 134, 146, 175, 215, 216, 239, 246, 264, 272, 276, 355),  # conflicts with what goes on beside it
        *(63, 70, 149, 150, 249, 250, 342, 343, 358, 406, 412, 13388),  # a sharded cluster being changed
        *(13, 18, 371, 391),  # not allowed to write, now
        *(365, 402, 433, 449, 450, 8000, 14031),  # overloaded, over its quota, out of disk space
    }
)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one operation of a bulk write failed."""

    message: str
    #: The index of which a document with the same key is there already; empty for other failures. There may be more of
    #: them than the server names.
    duplicate_in: str = ""


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a bulk write: how many documents its filters matched, and which operations failed."""

    matched: int
    failures: Mapping[int, Failure]

    @classmethod
    def from_details(cls, details: Mapping[str, Any]) -> Written:
        """Read the details of a ``BulkWriteError``.

        Raises:
            SinkUnavailable: a failure speaks of the server, not of a document.
        """
        if details["writeConcernErrors"]:
            error = details["writeConcernErrors"][0]
            raise SinkUnavailable(f"not acknowledged by a majority: {_brief(error['errmsg'])} (code {error['code']})")
        failures = {}
        for error in details["writeErrors"]:
            code, message = error["code"], _brief(error["errmsg"])
            if code in _SERVER_AT_FAULT:
                raise SinkUnavailable(f"{message} (code {code})")
            duplicate_in = ",".join(error.get("keyPattern", {"_id": 1})) if code == _DUPLICATE_KEY else ""
            failures[error["index"]] = Failure(f"{message} (code {code})", duplicate_in)
        return cls(details["nMatched"], failures)

    def followed_by(self, other: Written, offset: int) -> Written:
        """Return what became of two bulk writes, the second one's positions counted from *offset*."""
        moved = {offset + position: failure for position, failure in other.failures.items()}
        return Written(self.matched + other.matched, {**self.failures, **moved})


def describe(error: Exception) -> str:
    """Say what went wrong, less what users wrote."""
    return f"{type(error).__name__}: {_brief(str(error))}"


def _brief(message: str) -> str:
    return _CHATTER.split(message, maxsplit=1)[0].rstrip(" :,")[:_LONGEST_MESSAGE]
