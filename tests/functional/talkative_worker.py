"""A worker, ``faust -A tests.functional.talkative_worker``, that says something in every way that there is.

With ``CRASHES`` in the environment it crashes then. It tells its rates every second.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Any

from feedback_app.factory import create_app
from feedback_app.settings import load_settings

SAID = 'all at once: "ü" \\ \u2028 \ud800\nand on a second line'

app: Any = create_app(load_settings())
app.rates.every_s = 1.0
_preflight = app.preflight


def preflight() -> None:
    """Say something while nobody has set logging up."""
    logging.getLogger("too.early").warning("before logging is set up")
    _preflight()


app.preflight = preflight


@app.task  # type: ignore[untyped-decorator]
async def talk() -> None:
    """Say it."""
    print("printed")
    print("complained", file=sys.stderr)
    warnings.warn("warned of", UserWarning, stacklevel=1)
    for name in ("mode", "faust", "aiokafka", "feedback_app.librdkafka", "feedback_app"):
        logging.getLogger(name).error("%s", SAID)
    try:
        raise ValueError(SAID)
    except ValueError:
        logging.getLogger("talk").exception("it went wrong", stack_info=True)
    logging.getLogger("talk").warning("that was it")
    if "CRASHES" in os.environ:
        raise RuntimeError(SAID)
