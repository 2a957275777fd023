"""Asking a worker for a page as a stranger does: over a new connection."""

from __future__ import annotations

import http.client
from typing import Final

PATIENCE_S: Final = 5.0


def answers_ok(host: str, port: int, path: str) -> bool:
    """Say whether the page was answered with 200, in time."""
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE_S)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException):
        return False
    else:
        return answer.status == http.HTTPStatus.OK
    finally:
        connection.close()
