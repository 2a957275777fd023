"""Certificates of an authority that is made up for one test run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate with its chain, and its key, each in a file in PEM format; and both in one."""

    cert_file: Path
    key_file: Path
    both_file: Path


class Authority:
    """Signs certificates. Two authorities know nothing of each other."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._authority = trustme.CA()
        self.ca_file = folder / "ca.pem"
        self._authority.cert_pem.write_to_path(self.ca_file)

    def issue(self, *names: str) -> Identity:
        """Return an identity that is valid for *names*: host names or addresses."""
        issued = self._authority.issue_cert(*names)
        # Java reads no other format.
        key = serialization.load_pem_private_key(issued.private_key_pem.bytes(), None).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        identity = Identity(*(self._folder / f"{names[0]}-{part}.pem" for part in ("cert", "key", "both")))
        identity.cert_file.write_bytes(chain)
        identity.key_file.write_bytes(key)
        identity.both_file.write_bytes(key + chain)
        return identity
