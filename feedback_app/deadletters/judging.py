"""Whether a letter, once edited, can be sent: judged as the worker will judge it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from feedback_app.core.events import Headers, Invalid
from feedback_app.core.headers import Header, place
from feedback_app.deadletters.editing import Edit, NotEdited
from feedback_app.deadletters.letters import DeadLetter
from feedback_app.models import decode
from feedback_app.topics import MAX_INPUT_BYTES

#: What Kafka needs for a batch and a record besides key, value and headers, and more.
_OVERHEAD_BYTES: Final = 1_024


class Ready(NamedTuple):
    """A letter that can be sent: its new record."""

    letter: DeadLetter
    agent_id: str
    value: bytes
    headers: Headers

    @property
    def size(self) -> int:
        """Its bytes, about: no fewer than Kafka counts."""
        headers = sum(len(name) * 4 + len(value or b"") + 10 for name, value in self.headers)
        return len(self.agent_id.encode()) + len(self.value) + headers + _OVERHEAD_BYTES


class Refused(NamedTuple):
    """A letter that can't be sent, and why; the reason may repeat what the letter holds."""

    letter: DeadLetter
    reason: str


@dataclass(frozen=True, slots=True)
class Judge:
    """Judges letters after *edit*; events later than *latest_ms* lie in the future."""

    edit: Edit
    latest_ms: int

    def __call__(self, letter: DeadLetter) -> Ready | Refused | None:
        """Return what becomes of a letter; None when the edit leaves it out."""
        try:
            value = self.edit(letter)
        except NotEdited as error:
            return Refused(letter, str(error))
        if value is None:
            return None
        (event,) = decode([value])
        if isinstance(event, Invalid):
            return Refused(letter, event.error)
        if event.timestamp > self.latest_ms:
            return Refused(letter, "timestamp: lies in the future")
        headers = [*letter.headers, (Header.REPLAYED_FROM, place(letter.place))]
        ready = Ready(letter, event.agent_id, value, headers)
        if ready.size > MAX_INPUT_BYTES:
            return Refused(letter, f"too large: {ready.size:,} bytes, at most {MAX_INPUT_BYTES:,} are taken")
        return ready
