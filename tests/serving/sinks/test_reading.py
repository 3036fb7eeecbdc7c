"""The file that describes sinks: what it accepts, and one line for each mistake."""

from __future__ import annotations

import builtins
import inspect
import sys
import textwrap
from pathlib import Path

import pytest
from toy_outbox import inspection

from advrad.errors import ConfigError
from advrad.serving.sinks import load_sinks, reading
from advrad.serving.sinks.mqtt import Mqtt
from advrad.serving.sinks.webhook import Webhook

WEBHOOK = '[[sink]]\nkind = "webhook"\nname = "mes"\nurl = "https://mes.example/in"\nsecret_env = "SECRET"\n'
MQTT = '[[sink]]\nkind = "mqtt"\nname = "line"\nhost = "broker.example"\n'
CSV = '[[sink]]\nkind = "csv"\nname = "log"\nfile = "log.csv"\n'

NAME = "must be a name of at most 64 letters, digits, dots, - and _"
NOT_SET = "the environment variable NOT_SET is not set; set it"
NO_SECRET = "has no secret to sign with; name an environment variable as secret_env, or a file as secret_file"
TOPIC = "must be a topic without + and #, that does not begin with $; {product}, in status_topic {client}, is filled in"


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "a long random secret")


def written(folder: Path, text: str) -> Path:
    path = folder / "sinks.toml"
    path.write_text(text, encoding="utf-8")
    return path


def problem(folder: Path, text: str) -> str:
    path = written(folder, text)
    with pytest.raises(ConfigError) as caught:
        load_sinks(path)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(f"{path}: ", "", 1)


def test_the_example_of_the_docstring_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = inspect.getdoc(reading) or ""
    example = textwrap.dedent(text.partition("::\n")[2].partition("\n\nSecrets")[0])
    monkeypatch.setenv("ADVRAD_MES_SECRET", "one")
    monkeypatch.setenv("ADVRAD_MQTT_PASSWORD", "two")
    webhook, mqtt, csv = load_sinks(written(tmp_path, example))
    assert [(sink.name, sink.kind) for sink in (webhook, mqtt, csv)] == [
        ("mes", "webhook"),
        ("line-3", "mqtt"),
        ("log", "csv"),
    ]
    assert isinstance(webhook, Webhook) and isinstance(mqtt, Mqtt)
    assert (webhook.config.batch, webhook.config.timeout_s, webhook.config.only_defective) == (1, 10, True)
    wanted = [webhook.wants(inspection(1, defective=bad, product=name)) for bad in (0, 1) for name in ("flange", "x")]
    assert wanted == [False, False, True, False]
    assert csv.wants(inspection(1))


def test_secrets_are_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "visible-nowhere"
    (tmp_path / "mes.secret").write_text(f"{secret}\n", encoding="utf-8")
    text = WEBHOOK.replace('secret_env = "SECRET"', 'secret_file = "mes.secret"')
    monkeypatch.chdir("/")
    (sink,) = load_sinks(written(tmp_path, text))
    assert isinstance(sink, Webhook)
    assert sink._secret.value == secret.encode()
    assert secret not in f"{vars(sink)} {sink!r} {sink.config!r} {sink._secret}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "describes no sink; write a table [[sink]] for each"),
        ("[sink]\n", "describes no sink; write a table [[sink]] for each"),
        ("[[sinks]]\n", "sinks: is unknown; describe each sink in a table [[sink]]"),
        ('[[sink]]\nname = "a"\n', "sink 'a': kind: is missing; choose webhook, mqtt, csv"),
        ('[[sink]]\nkind = "ftp"\n', "sink 1: kind ftp: is unknown; choose webhook, mqtt, csv"),
        ("[[sink]]\nkind = 3\n", "sink 1: kind 3: is unknown; choose webhook, mqtt, csv"),
        (WEBHOOK + "retries = 3\n", "sink 'mes': retries: is unknown"),
        (WEBHOOK + "batch = 0\n", "sink 'mes': batch: must be at least 1"),
        (WEBHOOK + "timeout_s = nan\n", "sink 'mes': timeout_s: must be a finite number"),
        (WEBHOOK + CSV.replace("log", "mes", 1), "two sinks have the name 'mes'; name each differently"),
        (CSV.replace('"log"', '"a b"'), f"sink 'a b': name: {NAME}"),
        (WEBHOOK.replace("SECRET", "NOT_SET"), f"sink 'mes': secret_env: {NOT_SET}"),
        (WEBHOOK.replace('secret_env = "SECRET"\n', ""), f"sink 'mes': {NO_SECRET}"),
        (WEBHOOK + 'secret_file = "x"\n', "sink 'mes': names secret_env and secret_file; leave one out"),
        (WEBHOOK + 'secret = "x"\n', "sink 'mes': secret: is unknown"),
        (MQTT + 'topic = "a/#"\n', f"sink 'line': topic: {TOPIC}"),
        (MQTT + 'ca_file = "x"\n', "sink 'line': MqttConfig: certificates need tls = true"),
        (MQTT + 'password_env = "SECRET"\n', "sink 'line': MqttConfig: a password needs username"),
        (MQTT + "port = 70000\n", "sink 'line': port: must be at most 65535"),
    ],
)
def test_each_mistake_is_one_clear_line(tmp_path: Path, text: str, message: str) -> None:
    assert problem(tmp_path, text) == message


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mes.example/in", "must be an address such as https://mes.example/advrad"),
        ("ftp://mes.example", "must be an address such as"),
        ("https://", "must be an address such as"),
        ("https://user:password@mes.example", "must not hold a password"),
        ("https://mes.example:99999/", "Port out of range 0-65535"),
        ("https://mes.example/a b", "must not hold blanks"),
        ("https://[::1/", "Invalid IPv6 URL"),
    ],
)
def test_wrong_addresses(tmp_path: Path, url: str, words: str) -> None:
    message = problem(tmp_path, WEBHOOK.replace("https://mes.example/in", url))
    assert message.startswith(f"sink 'mes': url: {words}")
    assert "user:password" not in message


def test_files_that_are_wrong(tmp_path: Path) -> None:
    missing = f"{tmp_path / 'no.pem'}: No such file or directory"
    encrypted = MQTT + "tls = true\n"
    for key, text in (("ca_file", WEBHOOK), ("ca_file", encrypted), ("cert_file", encrypted)):
        assert f"{key}: {missing}" in problem(tmp_path, f'{text}{key} = "no.pem"\n')
    (tmp_path / "no.pem").write_text("nothing", encoding="utf-8")
    assert "holds no certificate" in problem(tmp_path, WEBHOOK + 'ca_file = "no.pem"\n')
    (tmp_path / "empty").write_text(" \n", encoding="utf-8")
    text = WEBHOOK.replace('secret_env = "SECRET"', 'secret_file = "empty"')
    assert problem(tmp_path, text).endswith("empty: is empty; write the secret into it")
    assert "there is no such folder" in problem(tmp_path, CSV.replace("log.csv", "no/log.csv"))
    (tmp_path / "log.csv").write_text("name,grade\nA,1\n", encoding="utf-8")
    assert "holds other columns than this table" in problem(tmp_path, CSV)


def test_a_file_that_is_missing_or_no_toml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be read \(No such file or directory\); check the path"):
        load_sinks(tmp_path / "none.toml")
    assert problem(tmp_path, "[[sink]\n").startswith("is no valid TOML (")
    (tmp_path / "sinks.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="is no valid TOML"):
        load_sinks(tmp_path / "sinks.toml")


def test_mqtt_without_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_paho(name: str, *arguments: object, **named: object) -> object:
        if name.split(".")[0] == "paho":
            raise ModuleNotFoundError("No module named 'paho'", name="paho")
        return real(name, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.delitem(sys.modules, "advrad.serving.sinks.mqtt")
    monkeypatch.setattr(builtins, "__import__", without_paho)
    assert problem(tmp_path, MQTT) == "sink 'line': MQTT needs another package; install it: pip install 'advrad[mqtt]'"
    monkeypatch.undo()
