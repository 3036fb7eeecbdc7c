"""An MQTT broker: one message for each inspection, as JSON, with QoS 1.

An inspection counts as delivered when the broker has acknowledged its message (PUBACK). The retained message of the
status topic is ``online`` while the sink is connected, and ``offline`` otherwise: the broker sets it when the
connection is lost (last will). Each client has a status topic of its own: two programs that share a topic would say
``offline`` for each other. MQTT 5 is the default, because older brokers acknowledge what they refuse.
"""

from __future__ import annotations

import json
import platform
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode
from pydantic import Field, field_validator, model_validator

from advrad.errors import ConfigError
from advrad.serving.records import Inspection
from advrad.serving.sinks.base import Rejected, SinkConfig, Unavailable
from advrad.serving.sinks.secret import Secret
from advrad.serving.sinks.trust import trusted

_ONLINE, _OFFLINE = b"online", b"offline"
_QOS = 1
#: Reasons of a refusal that may pass: unspecified, special to the broker, quota exceeded.
_LATER = (0x80, 0x83, 0x97)
_WITH_WILL = ReasonCode(PacketTypes.DISCONNECT, "Disconnect with will message")
_PRODUCT, _CLIENT = "{product}", "{client}"


class MqttConfig(SinkConfig):
    """Description of an MQTT broker and its topics.

    The password is in the environment variable ``password_env`` or in the file ``password_file``.
    """

    kind: Literal["mqtt"] = "mqtt"
    host: str = Field(min_length=1, description="Name or address of the broker.")
    port: int | None = Field(None, ge=1, le=65535, description="Port; 8883 with TLS, 1883 without.")
    topic: str = Field("advrad/{product}/inspections", description="Topic; {product} becomes the product's name.")
    status_topic: str = Field(
        "advrad/status/{client}", description="Topic of online and offline; {client} becomes the identity."
    )
    client_id: str | None = Field(
        None,
        min_length=1,
        description="Identity, which no two clients may share; by default of machine, sink, program and its history.",
    )
    username: str | None = Field(None, min_length=1, description="Name of the user.")
    password_env: str | None = Field(None, description="Environment variable that holds the password.")
    password_file: Path | None = Field(None, description="File that holds the password.")
    tls: bool = Field(False, description="Whether to encrypt.")
    ca_file: Path | None = Field(None, description="Certificates to trust, in place of those of the system (PEM).")
    cert_file: Path | None = Field(None, description="Certificate of this client (PEM).")
    key_file: Path | None = Field(None, description="Key of this client (PEM).")
    protocol: Literal["5", "3.1.1"] = Field("5", description="Version of MQTT.")
    timeout_s: float = Field(10.0, gt=0, le=300, description="Seconds to connect, and to wait for acknowledgements.")

    @field_validator("topic", "status_topic")
    @classmethod
    def _is_topic(cls, topic: str) -> str:
        plain = topic.replace(_PRODUCT, "").replace(_CLIENT, "")
        if not topic or set(plain) & set("+#\0{}") or topic.startswith("$") or len(topic.encode()) > 1000:
            raise ValueError(
                "must be a topic without + and #, that does not begin with $; {product}, in status_topic {client}, is"
                " filled in"
            )
        return topic

    @model_validator(mode="after")
    def _fits(self) -> MqttConfig:
        if _PRODUCT in self.status_topic:
            raise ValueError("status_topic must not hold {product}")
        if _CLIENT in self.topic:
            raise ValueError("topic must not hold {client}")
        if not self.tls and (self.ca_file or self.cert_file or self.key_file):
            raise ValueError("certificates need tls = true")
        if self.key_file is not None and self.cert_file is None:
            raise ValueError("key_file needs cert_file")
        if self.username is None and (self.password_env or self.password_file):
            raise ValueError("a password needs username")
        return self


class Mqtt:
    """Publishes inspections.

    Args:
        config: Description.
        password: Password of the user; None for none.
        folder: Folder at which relative paths of the description start.
        where: Place of the description, for errors.
        owner: Who delivers, as :func:`advrad.serving.sinks.load_sinks` takes it; empty for nobody in particular.

    Raises:
        ConfigError: A certificate cannot be read, or the password is no text.
    """

    kind = "mqtt"
    batch = 20
    keeps_batches = False

    def __init__(self, config: MqttConfig, password: Secret | None, folder: Path, where: str, owner: str = "") -> None:
        self.config = config
        parts = ("advrad", platform.node(), config.name, owner)
        self._client_id = config.client_id or "-".join(part for part in parts if part)
        self._status_topic = config.status_topic.replace(_CLIENT, _escaped(self._client_id))
        self.name, self.wants = config.name, config.wants
        self._password = _text(password, where)
        files = [one and folder / one for one in (config.ca_file, config.cert_file, config.key_file)]
        self._trusted = trusted(files[0], where, files[1], files[2]) if config.tls else None
        self._client: mqtt.Client | None = None
        #: Guards what the thread of the client tells: the state of the connection, and the acknowledgements.
        self._changed = threading.Condition()
        self._refusal: str | None = None
        self._connected = False
        self._acknowledged: dict[int, tuple[int, str]] = {}

    def open(self) -> None:
        """Connect, if there is no connection, and tell the status topic.

        Raises:
            Unavailable: The broker does not accept the connection.
        """
        with self._changed:
            if self._client is not None and self._connected:
                return
        self._drop()
        client = self._new_client()
        self._client = client
        try:
            client.connect(self.config.host, self._port, keepalive=30)
        except (OSError, ValueError) as error:
            self._client = None
            raise Unavailable(f"{self._place}: cannot connect: {_words(error)}") from None
        client.loop_start()
        with self._changed:
            self._changed.wait_for(lambda: self._connected or self._refusal is not None, self.config.timeout_s)
            if self._connected:
                return
            refusal = self._refusal or f"no answer within {self.config.timeout_s:g} s"
        self._drop()
        raise Unavailable(f"{self._place}: cannot connect: {refusal}")

    def send(self, inspections: Sequence[Inspection]) -> None:
        """Publish inspections, and wait until the broker has acknowledged all of them.

        Raises:
            Unavailable: There is no connection, or an acknowledgement did not come in time.
            Rejected: The broker refuses a message.
        """
        self.open()
        if self._client is None:
            raise Unavailable(f"{self._place}: the connection was lost")
        with self._changed:
            self._acknowledged.clear()
        waiting = set()
        for inspection in inspections:
            payload = json.dumps(inspection.to_dict(), allow_nan=False).encode()
            published = self._client.publish(topic_of(self.config.topic, inspection.product), payload, qos=_QOS)
            if published.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
                self._drop()
                raise Unavailable(f"{self._place}: the connection was lost")
            waiting.add(published.mid)
        self._await(waiting)

    def close(self) -> None:
        """Say ``offline``, and disconnect."""
        client = self._client
        with self._changed:
            connected = self._connected
            self._acknowledged.clear()
        if client is not None and connected:
            sent = client.publish(self._status_topic, _OFFLINE, qos=_QOS, retain=True)
            with self._changed:
                self._changed.wait_for(
                    lambda: sent.mid in self._acknowledged or not self._connected, min(2.0, self.config.timeout_s)
                )
        self._drop(clean=True)

    def _await(self, waiting: set[int]) -> None:
        """Wait for the acknowledgements of messages."""
        deadline = time.monotonic() + self.config.timeout_s
        with self._changed:
            self._changed.wait_for(
                lambda: not self._connected or waiting <= self._acknowledged.keys(), deadline - time.monotonic()
            )
            answers = [self._acknowledged[one] for one in waiting if one in self._acknowledged]
            connected = self._connected
        if len(answers) < len(waiting):
            # A new client forgets the messages that wait for an answer; otherwise they would pile up.
            self._drop()
            late = f"no acknowledgement within {self.config.timeout_s:g} s"
            raise Unavailable(f"{self._place}: {late if connected else 'the connection was lost'}")
        for value, words in answers:
            if value in _LATER:
                raise Unavailable(f"{self._place}: the broker refuses messages now: {words}")
            if value >= 0x80:
                raise Rejected(f"{self._place}: the broker refuses a message: {words}")

    @property
    def _port(self) -> int:
        return self.config.port or (8883 if self.config.tls else 1883)

    @property
    def _place(self) -> str:
        return f"{self.config.host}:{self._port}"

    def _new_client(self) -> mqtt.Client:
        config = self.config
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            protocol=mqtt.MQTTv5 if config.protocol == "5" else mqtt.MQTTv311,
            # The deliverer decides when to try again.
            reconnect_on_failure=False,
        )
        client.connect_timeout = config.timeout_s
        client.will_set(self._status_topic, _OFFLINE, qos=_QOS, retain=True)
        client.max_inflight_messages_set(self.batch + 1)
        if config.username is not None:
            client.username_pw_set(config.username, self._password)
        if self._trusted is not None:
            client.tls_set_context(self._trusted)
        client.on_connect, client.on_disconnect = self._on_connect, self._on_disconnect
        client.on_publish = self._on_publish
        with self._changed:
            self._connected, self._refusal = False, None
        return client

    def _drop(self, *, clean: bool = False) -> None:
        """End the connection, if there is one; unless it ends as it should, the broker publishes the last will."""
        client, self._client = self._client, None
        if client is None:
            return
        client.on_connect = client.on_disconnect = client.on_publish = None
        told = None if clean or self.config.protocol != "5" else _WITH_WILL
        client.disconnect(reasoncode=told)
        client.loop_stop()
        with self._changed:
            self._connected = False

    def _on_connect(self, client: mqtt.Client, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        if not reason.is_failure:
            client.publish(self._status_topic, _ONLINE, qos=_QOS, retain=True)
        with self._changed:
            self._connected = not reason.is_failure
            self._refusal = str(reason) if reason.is_failure else None
            self._changed.notify_all()

    def _on_disconnect(self, client: mqtt.Client, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        with self._changed:
            self._connected = False
            if self._refusal is None:
                self._refusal = str(reason)
            self._changed.notify_all()

    def _on_publish(self, client: mqtt.Client, userdata: Any, mid: int, reason: Any, properties: Any) -> None:
        with self._changed:
            self._acknowledged[mid] = (int(reason.value), str(reason))
            self._changed.notify_all()


def topic_of(template: str, product: str) -> str:
    """The topic of a product; characters of its name that mean something in a topic are escaped.

    Args:
        template: Topic with ``{product}``.
        product: Name of the product.

    Example:
        >>> topic_of("advrad/{product}/inspections", "bolt M6/30")
        'advrad/bolt M6%2F30/inspections'
    """
    return template.replace(_PRODUCT, _escaped(product))


def _escaped(name: str) -> str:
    return "".join(f"%{ord(one):02X}" if one in "%/+#\0" else one for one in name)


def _text(password: Secret | None, where: str) -> str | None:
    """A password as text.

    Raises:
        ConfigError: It is none.
    """
    if password is None:
        return None
    try:
        return password.value.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{where}: the password is not UTF-8; write it as text") from None


def _words(error: Exception) -> str:
    """What went wrong with a connection."""
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split()) or type(error).__name__
