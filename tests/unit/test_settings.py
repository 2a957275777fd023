"""Settings come from the environment and ``.env``; each wrong one is told in one line, and no secret ever is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from feedback_app.errors import SettingsError
from feedback_app.settings import (
    PREFIX,
    BatchingMode,
    BrokerSecurity,
    LogFormat,
    SaslMechanism,
    Settings,
    load_settings,
)


@pytest.fixture(autouse=True)
def _nothing_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of ours is set, and there is no ``.env``."""
    for name in os.environ:
        if name.upper().startswith(PREFIX):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def error_of(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    """Return what is said when *variables* (without their prefix) are set."""
    for name, value in variables.items():
        monkeypatch.setenv(PREFIX + name, value)
    with pytest.raises(SettingsError) as raised:
        load_settings()
    assert raised.value.exit_code == 2
    return raised.value.message


def broker_url(monkeypatch: pytest.MonkeyPatch, url: str) -> Settings:
    monkeypatch.setenv("FEEDBACK_BROKER_URL", url)
    return load_settings()


# -- what is set ---------------------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_the_contract() -> None:
    assert load_settings().model_dump() == {
        "broker_url": "kafka://localhost:9092",
        "broker_security": BrokerSecurity.PLAINTEXT,
        "broker_sasl_mechanism": SaslMechanism.PLAIN,
        "broker_username": None,
        "broker_password": None,
        "broker_ca_file": None,
        "broker_cert_file": None,
        "broker_key_file": None,
        "mongodb_url": SecretStr("mongodb://localhost:27017"),
        "mongodb_database": "feedback",
        "app_id": "feedback-app",
        "topic_prefix": "",
        "partitions": 8,
        "replication_factor": 1,
        "batch_time_ms": 300_000,
        "batch_size": 1_000,
        "max_batches": 10_000,
        "batching_mode": BatchingMode.HYBRID,
        "grace_ms": 5_000,
        "idle_ms": 30_000,
        "retention_ms": 3_600_000,
        "max_future_ms": 300_000,
        "store_items": True,
        "items_expire_after_s": None,
        "windows_expire_after_s": None,
        "data_dir": Path("./data"),
        "web_host": "127.0.0.1",
        "web_port": 6_066,
        "web_token": None,
        "web_faust_pages": False,
        "log_format": LogFormat.TEXT,
        "tracing": False,
    }


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("BROKER_URL", "kafka://b1:9093", "kafka://b1:9093"),
        ("BROKER_SECURITY", "ssl", BrokerSecurity.SSL),
        ("BROKER_SASL_MECHANISM", "SCRAM-SHA-512", SaslMechanism.SCRAM_SHA_512),
        ("BROKER_USERNAME", "ann", "ann"),
        ("BROKER_PASSWORD", "hunter2", SecretStr("hunter2")),
        ("MONGODB_URL", "mongodb+srv://db.example", SecretStr("mongodb+srv://db.example")),
        ("MONGODB_DATABASE", "ratings-2", "ratings-2"),
        ("APP_ID", "other_app.2", "other_app.2"),
        ("TOPIC_PREFIX", "staging.", "staging."),
        ("PARTITIONS", "32", 32),
        ("REPLICATION_FACTOR", "3", 3),
        ("BATCH_TIME_MS", "60000", 60_000),
        ("BATCH_SIZE", "1", 1),
        ("MAX_BATCHES", "5", 5),
        ("BATCHING_MODE", "agent", BatchingMode.AGENT),
        ("GRACE_MS", "0", 0),
        ("IDLE_MS", "1", 1),
        ("RETENTION_MS", "0", 0),
        ("MAX_FUTURE_MS", "0", 0),
        ("STORE_ITEMS", "false", False),
        ("DATA_DIR", "elsewhere", Path("elsewhere")),
        ("WEB_HOST", "0.0.0.0", "0.0.0.0"),
        ("WEB_PORT", "65535", 65_535),
        ("WEB_TOKEN", "s3cret", SecretStr("s3cret")),
        ("WEB_FAUST_PAGES", "true", True),
    ],
)
def test_each_variable_sets_its_field(monkeypatch: pytest.MonkeyPatch, variable: str, text: str, value: object) -> None:
    monkeypatch.setenv(PREFIX + variable, text)
    assert getattr(load_settings(), variable.lower()) == value


def test_certificate_files_are_paths(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    variables = ["BROKER_CA_FILE", "BROKER_CERT_FILE", "BROKER_KEY_FILE"]
    for variable in variables:
        (tmp_path / variable).touch()
        monkeypatch.setenv(PREFIX + variable, str(tmp_path / variable))
    settings = load_settings()
    assert [getattr(settings, variable.lower()) for variable in variables] == [
        tmp_path / variable for variable in variables
    ]


@pytest.mark.parametrize("variable", ["BROKER_CERT_FILE", "BROKER_KEY_FILE"])
def test_a_certificate_and_its_key_need_each_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    pem = tmp_path / "some.pem"
    pem.touch()
    assert error_of(monkeypatch, **{variable: str(pem)}) == (
        "FEEDBACK_BROKER_CERT_FILE and FEEDBACK_BROKER_KEY_FILE need each other; it may be one file for both"
    )


def test_dot_env_is_read_and_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text(
        "# a comment\nFEEDBACK_PARTITIONS=3\nFEEDBACK_BATCH_SIZE=7\nFEEDBACK_WEB_TOKEN='quoted'\nPATH=/nowhere\n"
    )
    monkeypatch.setenv("FEEDBACK_BATCH_SIZE", "9")
    settings = load_settings()
    assert (settings.partitions, settings.batch_size) == (3, 9)
    assert settings.web_token == SecretStr("quoted")


def test_a_wrong_value_in_dot_env_is_told_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("FEEDBACK_PARTITIONS=many\n")
    assert error_of(monkeypatch).startswith("FEEDBACK_PARTITIONS='many': ")


def test_what_is_handed_in_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEEDBACK_PARTITIONS", "3")
    assert load_settings(partitions=4).partitions == 4


def test_other_variables_are_none_of_our_concern(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PARTITIONS", "BROKER_URL", "WEB_PORT", "FEEDBACK_", "FEEDBACK_SOMETHING_ELSE"):
        monkeypatch.setenv(name, "nonsense")
    assert load_settings() == Settings()


def test_settings_are_frozen() -> None:
    settings = load_settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.partitions = 9


# -- broker urls ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "servers"),
    [
        ("kafka://localhost:9092", "localhost:9092"),
        ("kafka://localhost", "localhost:9092"),
        ("kafka://b1:9093,b2:9094,b3", "b1:9093,b2:9094,b3:9092"),
        ("kafka://10.0.0.1:1", "10.0.0.1:1"),
        ("kafka://[::1]:9093", "[::1]:9093"),
        ("kafka://[::1],[fe80::2]:9", "[::1]:9092,[fe80::2]:9"),
        ("kafka://broker-0.kafka.svc.cluster.local:9092", "broker-0.kafka.svc.cluster.local:9092"),
    ],
)
def test_brokers_are_listed_with_commas(monkeypatch: pytest.MonkeyPatch, url: str, servers: str) -> None:
    assert broker_url(monkeypatch, url).bootstrap_servers == servers


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:9092",
        "http://localhost:9092",
        "kafka:localhost:9092",
        "kafka://",
        "kafka://:9092",
        "kafka://b1:9092,",
        "kafka://b1:9092,,b2:9092",
        "kafka://b1:9092;kafka://b2:9092",
        "kafka://b1:9092,kafka://b2:9092",
        "kafka://b1:9092, b2:9092",
        "kafka://b1:0",
        "kafka://b1:",
        "kafka://b1:x",
        "kafka://b1:65536",
        "kafka://[::1:9092",
        "kafka://b1:9092/topic",
        "kafka://b1?acks=all",
        "kafka://b1#x",
    ],
)
def test_a_broker_url_that_lists_no_brokers_is_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    assert error_of(monkeypatch, BROKER_URL=url) == (
        f"FEEDBACK_BROKER_URL={url!r}: must look like kafka://host:port, more brokers separated by commas"
    )


# -- what is wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value", "allowed"),
    [
        ("BROKER_SECURITY", "tls", "input should be 'plaintext', 'ssl', 'sasl_plaintext' or 'sasl_ssl'"),
        ("BROKER_SASL_MECHANISM", "GSSAPI", "input should be 'PLAIN', 'SCRAM-SHA-256' or 'SCRAM-SHA-512'"),
        ("MONGODB_DATABASE", "", "string should have at least 1 character"),
        ("MONGODB_DATABASE", "d" * 64, "string should have at most 63 characters"),
        ("MONGODB_DATABASE", "a.b", "string should match pattern"),
        ("APP_ID", "", "string should have at least 1 character"),
        ("APP_ID", "a/b", "string should match pattern '^[a-zA-Z0-9._-]+$'"),
        ("APP_ID", "a" * 101, "string should have at most 100 characters"),
        ("TOPIC_PREFIX", "ä", "string should match pattern '^[a-zA-Z0-9._-]*$'"),
        ("TOPIC_PREFIX", "a" * 101, "string should have at most 100 characters"),
        ("PARTITIONS", "0", "input should be greater than 0"),
        ("PARTITIONS", "eight", "input should be a valid integer"),
        ("PARTITIONS", "1.5", "input should be a valid integer"),
        ("PARTITIONS", "", "input should be a valid integer"),
        ("REPLICATION_FACTOR", "0", "input should be greater than 0"),
        ("BATCH_TIME_MS", "0", "input should be greater than 0"),
        ("BATCH_TIME_MS", "-300000", "input should be greater than 0"),
        ("BATCH_SIZE", "0", "input should be greater than 0"),
        ("MAX_BATCHES", "0", "input should be greater than 0"),
        ("BATCHING_MODE", "Hybrid", "input should be 'agent', 'global' or 'hybrid'"),
        ("GRACE_MS", "-1", "input should be greater than or equal to 0"),
        ("IDLE_MS", "0", "input should be greater than 0"),
        ("RETENTION_MS", "-1", "input should be greater than or equal to 0"),
        ("MAX_FUTURE_MS", "-1", "input should be greater than or equal to 0"),
        ("STORE_ITEMS", "maybe", "input should be a valid boolean"),
        ("WEB_PORT", "0", "input should be greater than or equal to 1"),
        ("WEB_PORT", "65536", "input should be less than or equal to 65535"),
        ("BROKER_CA_FILE", "missing.pem", "no such file"),
        ("BROKER_CERT_FILE", "missing.pem", "no such file"),
        ("BROKER_KEY_FILE", ".", "no such file"),
    ],
)
def test_a_wrong_value_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, allowed: str
) -> None:
    message = error_of(monkeypatch, **{variable: value})
    assert message.startswith(f"FEEDBACK_{variable}={value!r}: {allowed}")
    assert "\n" not in message


def test_each_wrong_setting_has_a_line_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    message = error_of(monkeypatch, PARTITIONS="eight", BATCHING_MODE="fast", BROKER_URL="x", WEB_TOKEN=" ")
    lines = message.splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        "FEEDBACK_BROKER_URL='x'",
        "FEEDBACK_PARTITIONS='eight'",
        "FEEDBACK_BATCHING_MODE='fast'",
        "FEEDBACK_WEB_TOKEN",
    ]


def test_a_line_break_in_a_value_stays_in_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert error_of(monkeypatch, APP_ID="a\nb").startswith(r"FEEDBACK_APP_ID='a\nb': ")


@pytest.mark.parametrize("security", ["sasl_plaintext", "sasl_ssl"])
@pytest.mark.parametrize("given", [{}, {"BROKER_USERNAME": "ann"}, {"BROKER_PASSWORD": "hunter2"}])
def test_sasl_needs_a_username_and_a_password(
    monkeypatch: pytest.MonkeyPatch, security: str, given: dict[str, str]
) -> None:
    message = error_of(monkeypatch, BROKER_SECURITY=security, **given)
    assert message == (
        f"FEEDBACK_BROKER_SECURITY={security} needs FEEDBACK_BROKER_USERNAME and FEEDBACK_BROKER_PASSWORD"
    )


@pytest.mark.parametrize(
    ("security", "sasl", "tls"),
    [("plaintext", False, False), ("ssl", False, True), ("sasl_plaintext", True, False), ("sasl_ssl", True, True)],
)
def test_what_each_security_uses(security: str, sasl: bool, tls: bool) -> None:
    settings = load_settings(broker_security=security, broker_username="ann", broker_password="hunter2")
    assert (settings.broker_security.uses_sasl, settings.broker_security.uses_tls) == (sasl, tls)


# -- the database --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["", "db:27017", "http://db", "mongodb://", "mongodb:db"])
def test_a_database_url_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    assert error_of(monkeypatch, MONGODB_URL=url) == (
        "FEEDBACK_MONGODB_URL: must look like mongodb://host:port or mongodb+srv://host"
    )


@pytest.mark.parametrize(
    "options", ["w=0", "retryWrites=false&w=0", "w=0&journal=true", "W=0", "retryWrites=false;w=0", "w=%30"]
)
def test_unacknowledged_writes_are_refused(monkeypatch: pytest.MonkeyPatch, options: str) -> None:
    message = error_of(monkeypatch, MONGODB_URL=f"mongodb://db/?{options}")
    assert message == "FEEDBACK_MONGODB_URL: w=0 would lose windows silently: leave w out, it is majority"


@pytest.mark.parametrize("options", ["w=1", "w=majority", "appName=w=0", "wtimeoutMS=0"])
def test_acknowledged_writes_are_not(options: str) -> None:
    url = f"mongodb://db/?{options}"
    assert load_settings(mongodb_url=url).mongodb_url.get_secret_value() == url


# -- secrets -------------------------------------------------------------------------------------------------------

_SECRET = "hunter2-and-more"


def test_secrets_are_not_shown_by_settings() -> None:
    settings = load_settings(broker_password=_SECRET, mongodb_url=f"mongodb://ann:{_SECRET}@db", web_token=_SECRET)
    for shown in (repr(settings), str(settings), f"{settings}", str(settings.model_dump()), settings.model_dump_json()):
        assert _SECRET not in shown
    assert settings.broker_password == settings.web_token == SecretStr(_SECRET)
    assert _SECRET in settings.mongodb_url.get_secret_value()


@pytest.mark.parametrize(
    "variables",
    [
        {"MONGODB_URL": f"http://ann:{_SECRET}@db"},
        {"MONGODB_URL": f"mongodb://ann:{_SECRET}@db/?w=0"},
        {"MONGODB_URL": f"mongodb://ann:{_SECRET}@[db"},
        {"MONGODB_URL": f"mongodb://ann:{_SECRET}\u2100@db"},  # ℀ is a/c to NFKC, which urlsplit refuses
        {"MONGODB_URL": _SECRET},
        {"BROKER_PASSWORD": _SECRET, "BROKER_SECURITY": "sasl_ssl"},
        {"BROKER_PASSWORD": _SECRET, "WEB_TOKEN": _SECRET, "PARTITIONS": "eight"},
        {"BROKER_URL": f"kafka://ann:{_SECRET}@broker:9092"},
        {"BROKER_URL": f"kafka://:{_SECRET}@broker:9092"},
        {"BROKER_URL": f"kafka://b1:9092,ann:{_SECRET}@b2:9092"},
    ],
)
def test_secrets_are_not_shown_by_errors(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    message = error_of(monkeypatch, **variables)
    assert "FEEDBACK_" in message
    assert _SECRET not in message


def test_what_was_wrong_is_no_context_of_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A traceback would show it."""
    monkeypatch.setenv("FEEDBACK_MONGODB_URL", f"http://ann:{_SECRET}@db")
    with pytest.raises(SettingsError) as raised:
        load_settings()
    assert raised.value.__suppress_context__
    assert raised.value.__cause__ is None
    assert _SECRET not in str(raised.value.__context__)


@pytest.mark.parametrize("token", ["", " ", "\t\n"])
def test_an_empty_token_would_guard_nothing(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    assert error_of(monkeypatch, WEB_TOKEN=token) == (
        "FEEDBACK_WEB_TOKEN: must not be empty; leave the variable out for no token"
    )


def test_windows_may_not_expire_while_they_can_change(monkeypatch: pytest.MonkeyPatch) -> None:
    message = error_of(monkeypatch, WINDOWS_EXPIRE_AFTER_S="3905")
    assert message == (
        "FEEDBACK_WINDOWS_EXPIRE_AFTER_S=3905: must be more than 3905, the seconds for which a window can change: "
        "FEEDBACK_BATCH_TIME_MS + FEEDBACK_GRACE_MS + FEEDBACK_RETENTION_MS"
    )
    monkeypatch.setenv("FEEDBACK_WINDOWS_EXPIRE_AFTER_S", "3906")
    monkeypatch.setenv("FEEDBACK_ITEMS_EXPIRE_AFTER_S", "1")
    settings = load_settings()
    assert (settings.windows_expire_after_s, settings.items_expire_after_s) == (3_906, 1)


@pytest.mark.parametrize("variable", ["WINDOWS_EXPIRE_AFTER_S", "ITEMS_EXPIRE_AFTER_S"])
@pytest.mark.parametrize("seconds", ["0", "2147483648", ""])
def test_an_expiry_is_what_mongodb_takes(monkeypatch: pytest.MonkeyPatch, variable: str, seconds: str) -> None:
    assert error_of(monkeypatch, **{variable: seconds}).startswith(f"FEEDBACK_{variable}='{seconds}': ")
