"""Apache Kafka with listeners that are protected: TLS with a password, and TLS with a client certificate."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from feedback_app.embedded.process import HOST, free_port
from tests.services.certificates import Authority
from tests.services.kafka import ApacheKafka

#: The server's certificate is for this name, and not for its address.
NAME: Final = "localhost"
USER: Final = "me"
#: One for each mechanism, of characters that are encoded in a URL and in JSON.
PASSWORDS: Final = {
    "PLAIN": "open/sesame+plain%",
    "SCRAM-SHA-256": 'open/"sesame"+256',
    "SCRAM-SHA-512": "open/sésame+512%",
}

_SECURE: Final = """
listeners=PLAINTEXT://{host}:{port},SASL_SSL://{host}:{sasl_port},SSL://{host}:{tls_port},CONTROLLER://{host}:{controller_port}
advertised.listeners=PLAINTEXT://{host}:{port},SASL_SSL://{name}:{sasl_port},SSL://{name}:{tls_port}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL
inter.broker.listener.name=PLAINTEXT

ssl.keystore.type=PEM
ssl.keystore.location={keystore}
ssl.truststore.type=PEM
ssl.truststore.location={truststore}
listener.name.ssl.ssl.client.auth=required

listener.name.sasl_ssl.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.sasl_ssl.plain.sasl.jaas.config={login}.plain.PlainLoginModule required user_{user}="{password}";
listener.name.sasl_ssl.scram-sha-256.sasl.jaas.config={login}.scram.ScramLoginModule required;
listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config={login}.scram.ScramLoginModule required;
"""


class SecureKafka(ApacheKafka):
    """A single-node Apache Kafka that wants a password on one port, and a client certificate on another.

    Attributes:
        authority: signed the server's certificate, and must have signed the client's.
    """

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self.authority = Authority(data_dir / "authority")
        self._server = self.authority.issue(NAME)
        self._client = self.authority.issue("client")
        self._sasl_port = free_port()
        self._tls_port = free_port()

    def with_password(self, mechanism: str = "SCRAM-SHA-512", *, host: str = NAME, **overrides: Any) -> dict[str, Any]:
        """Return the settings of a client that says its password, by field name."""
        return {
            "broker_url": f"kafka://{host}:{self._sasl_port}",
            "broker_security": "sasl_ssl",
            "broker_sasl_mechanism": mechanism,
            "broker_username": USER,
            "broker_password": PASSWORDS[mechanism],
            "broker_ca_file": self.authority.ca_file,
        } | overrides

    def with_certificate(self, *, host: str = NAME, **overrides: Any) -> dict[str, Any]:
        """Return the settings of a client that shows a certificate, by field name."""
        return {
            "broker_url": f"kafka://{host}:{self._tls_port}",
            "broker_security": "ssl",
            "broker_ca_file": self.authority.ca_file,
            "broker_cert_file": self._client.cert_file,
            "broker_key_file": self._client.key_file,
        } | overrides

    def _server_properties(self, logs: Path) -> str:
        # The last one of two lines for one property counts.
        return super()._server_properties(logs) + _SECURE.format(
            host=HOST,
            name=NAME,
            login="org.apache.kafka.common.security",
            user=USER,
            password=PASSWORDS["PLAIN"],
            port=self.port,
            sasl_port=self._sasl_port,
            tls_port=self._tls_port,
            controller_port=self._controller_port,
            keystore=self._server.both_file,
            truststore=self.authority.ca_file,
        )

    def _format_options(self) -> list[str]:
        users = (
            f"{mechanism}=[name={USER},password={password}]"
            for mechanism, password in PASSWORDS.items()
            if mechanism != "PLAIN"
        )
        return [option for user in users for option in ("--add-scram", user)]
