"""The ``FEEDBACK_*`` settings: read once, checked, frozen."""

from __future__ import annotations

import re
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import SplitResult, parse_qsl, urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from feedback_app.errors import SettingsError

PREFIX = "FEEDBACK_"

_BROKER = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[a-zA-Z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")

_Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[a-zA-Z0-9._-]+$")]
_Positive = Annotated[int, Field(gt=0)]
_Milliseconds = Annotated[int, Field(ge=0)]
#: MongoDB takes no more.
_Expiry = Annotated[int, Field(gt=0, le=2_147_483_647)]


class BrokerSecurity(StrEnum):
    """How the connection to the broker is protected."""

    PLAINTEXT = "plaintext"
    SSL = "ssl"
    SASL_PLAINTEXT = "sasl_plaintext"
    SASL_SSL = "sasl_ssl"

    @property
    def uses_sasl(self) -> bool:
        return self in {BrokerSecurity.SASL_PLAINTEXT, BrokerSecurity.SASL_SSL}

    @property
    def uses_tls(self) -> bool:
        return self in {BrokerSecurity.SSL, BrokerSecurity.SASL_SSL}


class SaslMechanism(StrEnum):
    """The SASL mechanisms that both Kafka clients of the worker speak."""

    PLAIN = "PLAIN"
    SCRAM_SHA_256 = "SCRAM-SHA-256"
    SCRAM_SHA_512 = "SCRAM-SHA-512"


class BatchingMode(StrEnum):
    """How closed windows are grouped into bulk writes and aggregated events."""

    AGENT = "agent"
    GLOBAL = "global"
    HYBRID = "hybrid"


class LogFormat(StrEnum):
    """What the lines of the worker's log are."""

    TEXT = "text"
    JSON = "json"


class Settings(BaseSettings):
    """Everything that can be set from outside; see docs/operations.md for what each one means."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        frozen=True,
        extra="ignore",
        hide_input_in_errors=True,
    )

    broker_url: str = "kafka://localhost:9092"
    broker_security: BrokerSecurity = BrokerSecurity.PLAINTEXT
    broker_sasl_mechanism: SaslMechanism = SaslMechanism.PLAIN
    broker_username: str | None = None
    broker_password: SecretStr | None = None
    broker_ca_file: Path | None = None
    broker_cert_file: Path | None = None
    broker_key_file: Path | None = None

    mongodb_url: SecretStr = SecretStr("mongodb://localhost:27017")
    mongodb_database: Annotated[str, Field(min_length=1, max_length=63, pattern=r'^[^/\\. "$*<>:|?\x00]+$')] = (
        "feedback"
    )

    app_id: _Name = "feedback-app"
    topic_prefix: Annotated[str, Field(max_length=100, pattern=r"^[a-zA-Z0-9._-]*$")] = ""
    partitions: _Positive = 8
    replication_factor: _Positive = 1

    batch_time_ms: _Positive = 300_000
    batch_size: _Positive = 1_000
    max_batches: _Positive = 10_000
    batching_mode: BatchingMode = BatchingMode.HYBRID
    grace_ms: _Milliseconds = 5_000
    idle_ms: _Positive = 30_000
    retention_ms: _Milliseconds = 3_600_000
    max_future_ms: _Milliseconds = 300_000
    store_items: bool = True
    items_expire_after_s: _Expiry | None = None
    windows_expire_after_s: _Expiry | None = None

    data_dir: Path = Path("./data")
    web_host: str = "127.0.0.1"
    web_port: Annotated[int, Field(ge=1, le=65_535)] = 6066
    web_token: SecretStr | None = None
    web_faust_pages: bool = False

    log_format: LogFormat = LogFormat.TEXT
    tracing: bool = False

    @field_validator("broker_url")
    @classmethod
    def _broker_url_lists_brokers(cls, url: str) -> str:
        scheme, separator, hosts = url.partition("://")
        if not separator or scheme != "kafka":
            raise ValueError("must look like kafka://host:port, more brokers separated by commas")
        if "@" in hosts:
            raise ValueError(
                "must hold no user and password: use FEEDBACK_BROKER_USERNAME and FEEDBACK_BROKER_PASSWORD"
            )
        for host in hosts.split(","):
            match = _BROKER.fullmatch(host)
            if match is None or not 0 < int(match["port"] or 9092) < 65_536:
                raise ValueError("must look like kafka://host:port, more brokers separated by commas")
        return url

    @field_validator("mongodb_url")
    @classmethod
    def _mongodb_url_acknowledges_writes(cls, url: SecretStr) -> SecretStr:
        parts = _split(url.get_secret_value())
        if parts is None or parts.scheme not in {"mongodb", "mongodb+srv"} or not parts.netloc:
            raise ValueError("must look like mongodb://host:port or mongodb+srv://host")
        options = parse_qsl(parts.query.replace(";", "&"))  # the driver takes both
        if any(name.lower() == "w" and value == "0" for name, value in options):
            raise ValueError("w=0 would lose windows silently: leave w out, it is majority")
        return url

    @field_validator("web_token")
    @classmethod
    def _web_token_is_worth_having(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and not token.get_secret_value().strip():
            raise ValueError("must not be empty; leave the variable out for no token")
        return token

    @model_validator(mode="after")
    def _credentials_are_complete(self) -> Self:
        if self.broker_security.uses_sasl and not (self.broker_username and self.broker_password):
            raise ValueError(
                f"{PREFIX}BROKER_SECURITY={self.broker_security} needs {PREFIX}BROKER_USERNAME and "
                f"{PREFIX}BROKER_PASSWORD"
            )
        for name in ("broker_ca_file", "broker_cert_file", "broker_key_file"):
            path: Path | None = getattr(self, name)
            if path is not None and not path.is_file():
                raise ValueError(f"{PREFIX}{name.upper()}={str(path)!r}: no such file")
        if (self.broker_cert_file is None) != (self.broker_key_file is None):
            # One Kafka client would look for both in one file, and the other would connect without a certificate.
            raise ValueError(
                f"{PREFIX}BROKER_CERT_FILE and {PREFIX}BROKER_KEY_FILE need each other; it may be one file for both"
            )
        return self

    @model_validator(mode="after")
    def _windows_do_not_expire_while_they_can_change(self) -> Self:
        changes_ms = self.batch_time_ms + self.grace_ms + self.retention_ms
        if self.windows_expire_after_s is not None and self.windows_expire_after_s * 1_000 <= changes_ms:
            raise ValueError(
                f"{PREFIX}WINDOWS_EXPIRE_AFTER_S={self.windows_expire_after_s}: must be more than "
                f"{changes_ms // 1_000}, the seconds for which a window can change: {PREFIX}BATCH_TIME_MS + "
                f"{PREFIX}GRACE_MS + {PREFIX}RETENTION_MS"
            )
        return self

    @cached_property
    def bootstrap_servers(self) -> str:
        """The brokers as ``host:port,host:port``."""
        return ",".join(
            host if (match := _BROKER.fullmatch(host)) and match["port"] else f"{host}:9092"
            for host in self.broker_url.removeprefix("kafka://").split(",")
        )


def _split(url: str) -> SplitResult | None:
    """Split a URL; None when it is none. The library's own message quotes it, and so maybe a password."""
    try:
        return urlsplit(url)
    except ValueError:
        return None


def load_settings(**overrides: Any) -> Settings:
    """Read the settings from the environment and ``.env``; *overrides* (by field name) win.

    Raises:
        SettingsError: one line for each wrong setting, naming the variable, the value and what is allowed. The value
            of a secret is never shown.
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise SettingsError(_explain(error)) from None


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_url=False, include_input=True):
        message = problem["msg"].removeprefix("Value error, ")
        if not problem["loc"]:
            lines.append(message)
            continue
        field = str(problem["loc"][0])
        annotation = str(Settings.model_fields[field].annotation) if field in Settings.model_fields else ""
        secret = "Secret" in annotation or "@" in str(problem["input"])
        value = "" if secret else f"={problem['input']!r}"
        lines.append(f"{PREFIX}{field.upper()}{value}: {message[:1].lower()}{message[1:]}")
    return "\n".join(lines)
