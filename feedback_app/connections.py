"""The settings, said in each client's own words."""

from __future__ import annotations

from typing import Any

from feedback_app.settings import Settings


def librdkafka_config(settings: Settings, **more: Any) -> dict[str, Any]:
    """Return the configuration of a confluent-kafka client; *more* uses ``_`` where librdkafka has ``.``."""
    config: dict[str, Any] = {
        "bootstrap.servers": settings.bootstrap_servers,
        "security.protocol": settings.broker_security.value,
        "client.id": settings.app_id,
        "log_level": 3,
    }
    if settings.broker_security.uses_sasl and settings.broker_password:
        config["sasl.mechanism"] = settings.broker_sasl_mechanism.value
        config["sasl.username"] = settings.broker_username
        config["sasl.password"] = settings.broker_password.get_secret_value()
    for option, path in (
        ("ssl.ca.location", settings.broker_ca_file),
        ("ssl.certificate.location", settings.broker_cert_file),
        ("ssl.key.location", settings.broker_key_file),
    ):
        if path is not None:
            config[option] = str(path)
    config.update({name.replace("_", "."): value for name, value in more.items()})
    return config
