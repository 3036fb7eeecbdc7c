"""The file that says where inspections go.

A TOML file with one table ``[[sink]]`` for each sink::

    [[sink]]
    kind = "webhook"
    name = "mes"
    url = "https://mes.example/advrad"
    secret_env = "ADVRAD_MES_SECRET"    # or secret_file = "mes.secret"
    only_defective = true               # default: all
    products = ["flange", "bracket"]    # default: all
    batch = 1                           # inspections for each POST, at most
    timeout_s = 10
    # ca_file = "plant-ca.pem"          # default: the certificates of the system

    [[sink]]
    kind = "mqtt"
    name = "line-3"
    host = "broker.example"
    topic = "advrad/{product}/inspections"
    status_topic = "advrad/status/{client}"
    username = "advrad"
    password_env = "ADVRAD_MQTT_PASSWORD"
    tls = true                          # with ca_file, cert_file, key_file
    # client_id = "advrad-line-3"       # default: of machine, sink, program and its history

    [[sink]]
    kind = "csv"
    name = "log"
    file = "inspections.csv"

Secrets never stand in this file: it names the environment variable or the file that holds them. Relative paths start at
the folder of this file.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from advrad.errors import ConfigError
from advrad.serving.sinks.base import Sink
from advrad.serving.sinks.csv_file import CsvConfig, CsvFile
from advrad.serving.sinks.secret import read_secret
from advrad.serving.sinks.webhook import Webhook, WebhookConfig


def load_sinks(path: Path, owner: str = "") -> list[Sink]:
    r"""Make the sinks that a file describes. Nothing is connected yet.

    Args:
        path: TOML file, as described in :mod:`advrad.serving.sinks.reading`.
        owner: Who delivers, in letters, digits and hyphens: programs that use the same file at once must differ, or a
            broker takes them for one.

    Raises:
        ConfigError: The file is missing or no TOML, describes no sink, has an unknown key or a wrong value, two sinks
            have the same name, or a secret or a package is missing.

    Example:
        >>> from advrad.serving.sinks import load_sinks
        >>> _ = Path("sinks.toml").write_text('[[sink]]\nkind = "csv"\nname = "log"\nfile = "log.csv"\n')
        >>> [(sink.name, sink.kind) for sink in load_sinks(Path("sinks.toml"))]
        [('log', 'csv')]
    """
    values = _read(path)
    unknown = sorted(values.keys() - {"sink"})
    if unknown:
        raise ConfigError(f"{path}: {unknown[0]}: is unknown; describe each sink in a table [[sink]]")
    tables = values.get("sink")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise ConfigError(f"{path}: describes no sink; write a table [[sink]] for each")
    sinks: list[Sink] = []
    for number, table in enumerate(tables, 1):
        sink = _make(table, path, number, owner)
        if sink.name in {other.name for other in sinks}:
            raise ConfigError(f"{path}: two sinks have the name {sink.name!r}; name each differently")
        sinks.append(sink)
    return sinks


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except ValueError as error:  # also of text that is not UTF-8
        raise ConfigError(f"{path}: is no valid TOML ({error}); correct it") from None


def _make(table: Mapping[str, Any], path: Path, number: int, owner: str) -> Sink:
    named = table.get("name")
    where = f"{path}: sink {named!r}" if isinstance(named, str) else f"{path}: sink {number}"
    kind = table.get("kind")
    if kind is None:
        raise ConfigError(f"{where}: kind: is missing; choose {', '.join(_KINDS)}")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ConfigError(f"{where}: kind {kind}: is unknown; choose {', '.join(_KINDS)}")
    # Relative to where the file is, wherever the program was started.
    return _KINDS[kind](dict(table), path.absolute().parent, where, owner)


def _webhook(table: dict[str, Any], folder: Path, where: str, owner: str) -> Sink:
    config = WebhookConfig.parse(table, where)
    secret = read_secret(config.secret_env, config.secret_file, folder, where=where, what="secret")
    if secret is None:
        fix = "name an environment variable as secret_env, or a file as secret_file"
        raise ConfigError(f"{where}: has no secret to sign with; {fix}")
    return Webhook(config, secret, folder, where)


def _mqtt(table: dict[str, Any], folder: Path, where: str, owner: str) -> Sink:
    try:
        from advrad.serving.sinks.mqtt import Mqtt, MqttConfig
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "paho":
            raise
        raise ConfigError(f"{where}: MQTT needs another package; install it: pip install 'advrad[mqtt]'") from None
    config = MqttConfig.parse(table, where)
    password = read_secret(config.password_env, config.password_file, folder, where=where, what="password")
    return Mqtt(config, password, folder, where, owner)


def _csv(table: dict[str, Any], folder: Path, where: str, owner: str) -> Sink:
    return CsvFile(CsvConfig.parse(table, where), folder, where)


_KINDS: dict[str, Callable[[dict[str, Any], Path, str, str], Sink]] = {"webhook": _webhook, "mqtt": _mqtt, "csv": _csv}
