"""SecantusDB over TLS, with users."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

import pymongo

from feedback_app.embedded.database import EmbeddedDatabase
from feedback_app.embedded.process import HOST
from tests.services.certificates import Authority

#: Of characters that are encoded in a URL and in JSON.
PASSWORD: Final = 'open/"sésame"+mongo%'
USERS: Final = {"writer": "readWriteAnyDatabase", "reader": "readAnyDatabase"}


class SecureDatabase(EmbeddedDatabase):
    """A database that speaks TLS alone, and asks for a password. It has the users ``writer`` and ``reader``.

    Args:
        authority: signs its certificate.
    """

    def __init__(self, authority: Authority) -> None:
        super().__init__()
        self._authority = authority
        self._secured = False

    def start(self) -> None:
        """Start; the first time without security, to make the users."""
        super().start()
        if self._secured:
            return
        with pymongo.MongoClient[dict[str, object]](f"mongodb://{HOST}:{self.port}") as client:
            for user, role in USERS.items():
                client.admin.command("createUser", user, pwd=PASSWORD, roles=[{"role": role, "db": "admin"}])
        self.stop()
        identity = self._authority.issue(HOST)
        self._command += [
            "--auth",
            "--tls-cert-file",
            str(identity.cert_file),
            "--tls-key-file",
            str(identity.key_file),
        ]
        self._secured = True
        super().start()

    @property
    def url(self) -> str:
        return self.url_of("writer")

    def url_of(self, user: str, password: str = PASSWORD, authority: Authority | None = None) -> str:
        """Return the URL for a user; *authority*, who is to have signed the server's certificate, may be another."""
        ca_file = (authority or self._authority).ca_file
        options = f"authSource=admin&tls=true&tlsCAFile={quote(str(ca_file), safe='')}"
        return f"mongodb://{user}:{quote(password, safe='')}@{HOST}:{self.port}/?{options}"
