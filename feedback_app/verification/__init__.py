"""The proof: a recount of the input, on its own, compared with what the worker has written."""

from __future__ import annotations

from feedback_app.verification.checking import verify
from feedback_app.verification.differences import Verdict

__all__ = ["Verdict", "verify"]
