"""The webhook against a receiver on loopback that answers what a test says."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from toy_outbox import inspection
from webhook_receiver import Receiver, receiving

from advrad.serving.sinks import verify_signature
from advrad.serving.sinks.base import DeliveryError, Rejected, Unavailable
from advrad.serving.sinks.secret import Secret
from advrad.serving.sinks.webhook import Webhook, WebhookConfig, retry_after

SECRET = b"a long random secret"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as started:
        yield started


@pytest.fixture
def webhook(receiver: Receiver) -> Iterator[Webhook]:
    made = hook(receiver.url)
    yield made
    made.close()


def hook(url: str, timeout_s: float = 60.0) -> Webhook:
    config = WebhookConfig(name="mes", url=url, secret_env="X", timeout_s=timeout_s)
    return Webhook(config, Secret(SECRET), Path(), "sinks.toml: sink 'mes'")


def failure(sink: Webhook) -> DeliveryError:
    with pytest.raises(DeliveryError) as caught:
        sink.send([inspection(1)])
    return caught.value


def test_inspections_arrive_as_signed_json(receiver: Receiver, webhook: Webhook) -> None:
    sent = [inspection(1, defective=True), inspection(2, part_id="Ä<b>")]
    webhook.send(sent)
    ((path, headers, body),) = receiver.arrived
    values = json.loads(body)
    assert path == "/advrad?line=3"
    assert values["inspections"] == [one.to_dict() for one in sent]
    assert values["inspections"][0]["at"] == "2026-11-27T08:30:01+00:00"
    assert values["delivery"] == headers["X-Advrad-Delivery"]
    assert headers["Content-Type"] == "application/json"
    assert verify_signature(SECRET, headers, body)
    assert not verify_signature(b"another secret", headers, body)


def test_the_same_inspections_have_the_same_delivery(receiver: Receiver, webhook: Webhook) -> None:
    for sent in ([1, 2], [1, 2], [1], [2, 1]):
        webhook.send([inspection(number) for number in sent])
    ids = [headers["X-Advrad-Delivery"] for _, headers, _ in receiver.arrived]
    assert ids[0] == ids[1]
    assert len(set(ids)) == 3


@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
def test_not_now_is_tried_again_soon(receiver: Receiver, webhook: Webhook, status: int) -> None:
    receiver.status, receiver.headers = status, {"Retry-After": "17"}
    error = failure(webhook)
    assert (type(error), str(error), error.retry_after_s) == (Unavailable, f"answered {status}", 17)


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_never_is_a_refusal(receiver: Receiver, webhook: Webhook, status: int) -> None:
    receiver.status = status
    error = failure(webhook)
    assert (type(error), str(error), error.retry_after_s) == (Rejected, f"answered {status}", None)


def test_redirects_are_not_followed(receiver: Receiver, webhook: Webhook) -> None:
    receiver.status, receiver.headers = 307, {"Location": receiver.url}
    error = failure(webhook)
    assert (type(error), len(receiver.arrived)) == (Rejected, 1)
    assert str(error) == "answered 307, a redirect, which is not followed; configure the final address"


def test_the_time_limit_holds_for_an_answer_that_drips(receiver: Receiver) -> None:
    dripped: list[bool] = []

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        try:
            for byte in b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 1200:
                handler.wfile.write(bytes([byte]))
                time.sleep(0.05)
            dripped.append(True)
        except OSError:
            pass  # the sender has given up, as it should

    receiver.act = drip
    sink = hook(receiver.url, timeout_s=0.4)
    error = failure(sink)
    assert (type(error), str(error)) == (Unavailable, "no answer within 0.4 s")
    assert dripped == [], "it was given up while the answer still came"
    sink.close()


def test_an_endless_answer_is_not_read(receiver: Receiver, webhook: Webhook) -> None:
    written: list[int] = []

    def flood(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        try:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
            while sum(written) < 1_000_000_000:
                written.append(handler.wfile.write(b"x" * 65536) or 65536)
        except OSError:
            pass  # the sender has closed the connection, as it should

    receiver.act = flood
    webhook.send([inspection(1)])
    assert sum(written) < 100_000_000
    receiver.act = None
    webhook.send([inspection(2)])


@pytest.mark.parametrize("answer", [b"", b"nonsense\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Le"])
def test_an_answer_that_is_none_counts_as_no_delivery(receiver: Receiver, webhook: Webhook, answer: bytes) -> None:
    def act(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        handler.wfile.write(answer)

    receiver.act = act
    assert type(failure(webhook)) is Unavailable


def test_a_receiver_that_is_not_there() -> None:
    sink = hook("http://127.0.0.1:9/advrad")
    error = failure(sink)
    assert type(error) is Unavailable
    assert "ConnectError" in str(error)
    sink.close()
    sink.close()


def test_no_proxy_and_no_netrc_is_used(
    receiver: Receiver, webhook: Webhook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login someone password hidden\n", encoding="utf-8")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    webhook.send([inspection(1)])
    assert "authorization" not in {name.lower() for name in receiver.arrived[0][1]}


def test_retry_after_as_a_date_is_by_the_clock_of_the_answer() -> None:
    date, then = "Fri, 27 Nov 2026 08:00:00 GMT", "Fri, 27 Nov 2026 08:02:00 GMT"
    assert retry_after({"retry-after": then, "date": date}) == 120
    assert retry_after({"retry-after": date, "date": then}) == 0
    assert retry_after({"retry-after": then}, datetime(2026, 11, 27, 8, 1, tzinfo=UTC)) == 60
    assert retry_after({}) is None
    assert retry_after({"retry-after": "-5"}) is None
    assert retry_after({"retry-after": "9" * 400}) == 999999999


@pytest.mark.parametrize(
    "change",
    [
        {"X-Advrad-Timestamp": "1800000001"},
        {"X-Advrad-Timestamp": ""},
        {"X-Advrad-Timestamp": "١٨٠٠٠٠٠٠٠٠"},
        {"X-Advrad-Timestamp": "9" * 5000},
        {"X-Advrad-Signature": ""},
        {"X-Advrad-Signature": "sha256=é"},
    ],
)
def test_a_changed_signature_is_none(change: dict[str, str]) -> None:
    from advrad.serving.sinks.signature import sign

    headers = sign(SECRET, 1_800_000_000, b"{}")
    assert verify_signature(SECRET, headers, b"{}", now_s=1_800_000_000)
    assert verify_signature(SECRET, {name.upper(): value for name, value in headers.items()}, b"{}", now_s=1.8e9)
    assert not verify_signature(SECRET, headers | change, b"{}", now_s=1_800_000_000)


def test_an_old_message_and_an_empty_secret_are_refused() -> None:
    from advrad.serving.sinks.signature import sign

    headers = sign(SECRET, 1_800_000_000, b"{}")
    for now_s, right in ((1_800_000_299, True), (1_800_000_301, False), (1_799_999_699, False)):
        assert verify_signature(SECRET, headers, b"{}", now_s=now_s) is right
    with pytest.raises(ValueError, match="the secret is empty"):
        verify_signature(b"", sign(b"x", 1, b"{}"), b"{}")
