"""What Faust shows the broker: a password, a certificate. librdkafka's clients have theirs in ``connections``."""

from __future__ import annotations

import ssl

import faust
from faust.types.auth import CredentialsT

from feedback_app.errors import SettingsError
from feedback_app.settings import Settings


def broker_credentials(settings: Settings) -> CredentialsT | None:
    """Return what Faust's consumer shows the broker; None where it asks for nothing.

    Raises:
        SettingsError: a file with a certificate or a key is not what it should be.
    """
    context = _tls(settings) if settings.broker_security.uses_tls else None
    if settings.broker_security.uses_sasl and settings.broker_password is not None:
        return faust.SASLCredentials(
            username=settings.broker_username,
            password=settings.broker_password.get_secret_value(),
            mechanism=settings.broker_sasl_mechanism.value,
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if context is not None else None


def _tls(settings: Settings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.broker_ca_file)
    except OSError as error:
        raise SettingsError(f"FEEDBACK_BROKER_CA_FILE: no certificates in PEM format: {error.strerror}") from None
    if settings.broker_cert_file is not None:
        try:
            # Any pass phrase: without one, a key that has one would be asked for on the terminal.
            context.load_cert_chain(settings.broker_cert_file, settings.broker_key_file, password="")
        except OSError as error:
            raise SettingsError(
                "FEEDBACK_BROKER_CERT_FILE, FEEDBACK_BROKER_KEY_FILE: not a certificate and its key in PEM format, "
                f"without a pass phrase: {error.strerror}"
            ) from None
    return context
