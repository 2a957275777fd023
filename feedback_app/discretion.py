"""What libraries would log at level ``DEBUG``, and must not: passwords, and what users wrote."""

from __future__ import annotations

import logging
from typing import Final


class _NoPasswords(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        arguments = record.args if isinstance(record.args, tuple) else ()
        return not any(type(argument).__name__.startswith("SaslAuthenticate") for argument in arguments)


_NO_PASSWORDS: Final = _NoPasswords()


def be_discreet() -> None:
    """Keep secrets out of the logs of libraries. It can be called any number of times."""
    # aiokafka logs each request, that of the mechanism PLAIN with its password.
    logging.getLogger("aiokafka.conn").addFilter(_NO_PASSWORDS)
    # The driver logs each command, with the documents.
    logging.getLogger("pymongo.command").setLevel(logging.INFO)
