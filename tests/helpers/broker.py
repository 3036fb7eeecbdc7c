"""A mosquitto on loopback that a test starts, stops and starts again, and a client that listens to it."""

from __future__ import annotations

import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from needed_programs import needed
from paho.mqtt.enums import CallbackAPIVersion
from toy_outbox import until
from two_processes import kept_port


class Broker:
    """A mosquitto with its own configuration.

    Args:
        folder: Folder of the configuration.
        port: Port on the loopback address, which is kept for it.
        settings: Further lines of the configuration.
    """

    def __init__(self, folder: Path, port: int, *settings: str) -> None:
        self.program, self.port = needed("mosquitto"), port
        self.config = folder / "mosquitto.conf"
        lines = [f"listener {self.port} 127.0.0.1", "persistence false", "user root", *settings]
        if not any(line.startswith("allow_anonymous") for line in settings):
            lines.append("allow_anonymous true")
        self.config.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [self.program, "-c", str(self.config)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until(self._answers)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(60)
            self.process = None

    def _answers(self) -> bool:
        assert self.process is not None and self.process.poll() is None, "the broker ended"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@contextmanager
def running(folder: Path, *settings: str) -> Iterator[Broker]:
    with kept_port() as port:
        broker = Broker(folder, port, *settings)
        try:
            broker.start()
            yield broker
        finally:
            broker.stop()


class Listener:
    """Receives all messages below `advrad/`."""

    def __init__(self, port: int) -> None:
        self.messages: list[tuple[str, bytes, bool]] = []
        ready = threading.Event()
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self.client.on_connect = lambda client, *rest: client.subscribe("advrad/#", qos=1)
        self.client.on_subscribe = lambda *rest: ready.set()
        self.client.on_message = lambda client, data, one: self.messages.append((one.topic, one.payload, one.retain))
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert ready.wait(60)

    def inspections(self) -> list[dict[str, Any]]:
        return [json.loads(payload) for topic, payload, _ in self.messages if not topic.startswith("advrad/status/")]

    def status(self) -> list[str]:
        return [payload.decode() for topic, payload, _ in self.messages if topic.startswith("advrad/status/")]

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@contextmanager
def listening(port: int) -> Iterator[Listener]:
    listener = Listener(port)
    try:
        yield listener
    finally:
        listener.close()
