"""MQTT against a real mosquitto on loopback, which is stopped and started again."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from broker import Broker, listening, running
from needed_programs import needed
from toy_outbox import ToyOutbox, inspection, until

import advrad.serving.sinks.deliverer as deliverer_module
from advrad.errors import ConfigError
from advrad.serving.settings import ServeSettings
from advrad.serving.sinks import Deliverer, load_sinks
from advrad.serving.sinks.base import DeliveryError, Rejected, Unavailable
from advrad.serving.sinks.mqtt import Mqtt, MqttConfig
from advrad.serving.sinks.secret import Secret


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with running(tmp_path) as started:
        yield started


def sink(port: int, password: Secret | None = None, **values: object) -> Mqtt:
    config = MqttConfig.parse({"name": "line", "host": "127.0.0.1", "port": port, "timeout_s": 30.0, **values})
    return Mqtt(config, password, Path(), "sinks.toml: sink 'line'")


def failure(one: Mqtt) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        one.send([inspection(1)])
    return caught.value


def test_programs_with_one_file_are_clients_of_their_own(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`serve` and `watch` with the same file: both stay connected, and each says for itself whether it is there."""
    path = tmp_path / "sinks.toml"
    path.write_text(
        f'[[sink]]\nkind = "mqtt"\nname = "line"\nhost = "127.0.0.1"\nport = {broker.port}\ntimeout_s = 60\n'
    )
    here = ServeSettings(data=tmp_path)
    owners = [here.deliverer("serve"), here.deliverer("watch"), ServeSettings(data=Path("b")).deliverer("watch")]
    programs = [load_sinks(path, owner)[0] for owner in owners]
    with listening(broker.port) as listener:
        for number, one in enumerate(programs):
            one.send([inspection(number)])
        until(lambda: len(listener.inspections()) == 3)
        programs[1].close()
        until(lambda: listener.status().count("offline") == 1)
        assert all(one._connected for one in (programs[0], programs[2]))  # type: ignore[attr-defined]
        said = {topic: text for topic, text, _ in listener.messages if topic.startswith("advrad/status/")}
        ends = {owner: next(text for topic, text in said.items() if topic.endswith(owner)) for owner in owners}
        assert list(ends.values()) == [b"online", b"offline", b"online"]
        for one in programs:
            one.close()


def test_an_identity_of_ones_own_is_taken(broker: Broker) -> None:
    one = sink(broker.port, client_id="line 3/a+", status_topic="advrad/status/{client}/state")
    with listening(broker.port) as listener:
        one.open()
        wanted = ("advrad/status/line 3%2Fa%2B/state", b"online", False)
        until(lambda: wanted in listener.messages)
        one.close()


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_each_inspection_is_one_message(broker: Broker, protocol: str) -> None:
    with listening(broker.port) as listener:
        one = sink(broker.port, protocol=protocol)
        sent = [inspection(1, product="bolt M6/30"), inspection(2, defective=True)]
        one.send(sent)
        until(lambda: len(listener.inspections()) == 2)
        one.close()
        until(lambda: listener.status() == ["online", "offline"])
        assert listener.inspections() == [item.to_dict() for item in sent]
        topics = [topic for topic, _, _ in listener.messages if not topic.startswith("advrad/status/")]
        assert topics == ["advrad/bolt M6%2F30/inspections", "advrad/flange/inspections"]


def test_the_status_is_retained(broker: Broker) -> None:
    one = sink(broker.port)
    one.open()
    one.open()  # stays connected
    with listening(broker.port) as late:
        until(lambda: late.status() == ["online"])
        assert late.messages[0][2]
    one.close()


_DIES = """
import os, sys
from pathlib import Path
from advrad.serving.sinks.mqtt import Mqtt, MqttConfig
sink = Mqtt(MqttConfig(name="line", host="127.0.0.1", port=int(sys.argv[1]), timeout_s=60), None, Path(), "x")
sink.open()
print("connected", flush=True)
sys.stdin.read()
"""


def test_the_broker_says_offline_after_kill_9(broker: Broker) -> None:
    with listening(broker.port) as listener:
        with subprocess.Popen(
            [sys.executable, "-c", _DIES, str(broker.port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"connected\n"
            until(lambda: listener.status() == ["online"])
            process.kill()
        until(lambda: listener.status() == ["online", "offline"])


def test_a_broker_that_is_stopped_and_started_again(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliverer_module, "FIRST_WAIT_S", 0.05)
    monkeypatch.setattr(deliverer_module, "LONGEST_WAIT_S", 0.2)
    outbox, said = ToyOutbox(), []
    deliverer = Deliverer(outbox, [sink(broker.port)], seed=3, tell=said.append)
    deliverer.start()
    try:
        with listening(broker.port) as listener:
            outbox.add("line", *(inspection(number) for number in range(5)))
            until(lambda: len(listener.inspections()) == 5 and not outbox.rows)
        broker.stop()
        outbox.add("line", *(inspection(number) for number in range(5, 50)))
        until(lambda: deliverer.status()[0].failures >= 2)
        assert outbox.pending("line") == 45  # nothing counts as delivered without an acknowledgement
        broker.start()
        with listening(broker.port) as listener:
            until(lambda: not outbox.rows)
            until(lambda: "online" in listener.status())
        assert said[0].startswith(f"sink line: 127.0.0.1:{broker.port}: ")
        assert said[-1] == "sink line: works again"
        assert deliverer.status()[0].delivered == 50
    finally:
        assert deliverer.stop(60)


def test_without_a_broker(broker: Broker) -> None:
    broker.stop()
    one = sink(broker.port)
    error = failure(one)
    assert (type(error), str(error)) == (Unavailable, f"127.0.0.1:{broker.port}: cannot connect: Connection refused")
    one.close()


def test_a_wrong_password_and_a_forbidden_topic(tmp_path: Path) -> None:
    (tmp_path / "users").write_text("advrad:right\n", encoding="utf-8")
    (tmp_path / "rights").write_text("user advrad\ntopic readwrite advrad/#\n", encoding="utf-8")
    subprocess.run([needed("mosquitto_passwd"), "-U", tmp_path / "users"], check=True)
    for name in ("users", "rights"):
        (tmp_path / name).chmod(0o600)
    settings = ("allow_anonymous false", f"password_file {tmp_path / 'users'}", f"acl_file {tmp_path / 'rights'}")
    with running(tmp_path, *settings) as broker:
        wrong = sink(broker.port, Secret(b"wrong"), username="advrad")
        error = failure(wrong)
        assert (type(error), "ot authori" in str(error)) == (Unavailable, True), error
        assert "wrong" not in str(error)
        right = sink(broker.port, Secret(b"right"), username="advrad")
        right.send([inspection(1)])
        right.close()
        elsewhere = sink(broker.port, Secret(b"right"), username="advrad", topic="plant/{product}")
        error = failure(elsewhere)
        assert (type(error), str(error)) == (
            Rejected,
            f"127.0.0.1:{broker.port}: the broker refuses a message: Not authorized",
        )
        elsewhere.close()


def test_a_client_that_is_pushed_out_comes_back(broker: Broker) -> None:
    """Two clients of the same identity push each other out; each delivers all the same."""
    with listening(broker.port) as listener:
        pair = sink(broker.port), sink(broker.port)
        for number in range(4):
            one, other = pair[number % 2], pair[1 - number % 2]
            one.send([inspection(number)])
            until(lambda other=other: not other._connected)  # type: ignore[misc]
        until(lambda: len(listener.inspections()) == 4)
        for one in pair:
            one.close()


def test_no_acknowledgement_is_no_delivery() -> None:
    """A broker that accepts the connection, and then says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        connections: list[socket.socket] = []

        def act() -> None:
            for _ in range(2):
                connection, _ = server.accept()
                connections.append(connection)
                connection.recv(1000)
                connection.sendall(b"\x20\x03\x00\x00\x00")  # CONNACK of MQTT 5: success

        thread = threading.Thread(target=act, daemon=True)
        thread.start()
        one = sink(server.getsockname()[1])
        patient = one.config.model_copy(update={"timeout_s": 60.0})
        for _ in range(2):
            one.config = patient  # the connection may take its time, the acknowledgement does not come
            one.open()
            one.config = patient.model_copy(update={"timeout_s": 0.3})
            error = failure(one)
            assert (type(error), str(error).partition(": ")[2]) == (Unavailable, "no acknowledgement within 0.3 s")
        one.close()
        thread.join()
        for connection in connections:
            connection.close()


def test_a_peer_that_is_no_broker() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = sink(server.getsockname()[1], timeout_s=0.3)
        assert str(failure(one)).endswith("cannot connect: no answer within 0.3 s")
        one.close()


def test_a_password_that_is_no_text() -> None:
    with pytest.raises(ConfigError, match="the password is not UTF-8"):
        sink(1883, Secret(b"\xff"), username="advrad")


_MAKE_CERTIFICATE = (
    "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=127.0.0.1"
    " -addext subjectAltName=IP:127.0.0.1"
)


def test_tls(tmp_path: Path) -> None:
    """A certificate for 127.0.0.1 that the sink is told to trust; without that, it does not connect."""
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        [needed("openssl"), *_MAKE_CERTIFICATE.split(), "-keyout", key, "-out", certificate],
        check=True,
        capture_output=True,
    )
    with running(tmp_path, f"certfile {certificate}", f"keyfile {key}") as broker:
        trusting = sink(broker.port, tls=True, ca_file=str(certificate))
        trusting.send([inspection(1)])
        trusting.close()
        doubting = sink(broker.port, tls=True)
        with warnings.catch_warnings(action="ignore", category=ResourceWarning):
            # paho leaves the socket of a failed handshake to the garbage collector.
            assert "certificate verify failed" in str(failure(doubting))
            gc.collect()
        doubting.close()
