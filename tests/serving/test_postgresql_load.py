"""The service with PostgreSQL under load: the database crashes and comes back, the service is killed and comes back."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import trained_run
from postgres_server import postgres_server
from soak_service import Service

from advrad.serving.store import Store

CLIENTS, EACH = 8, 40
POST = "/v1/products/widget/inspections"


class Clients:
    """Machines that send each of their images until they have its inspection, and count what they are answered."""

    def __init__(self, address: str, pictures: list[bytes]) -> None:
        self.address = address
        self.pictures = pictures
        self.statuses: Counter[int] = Counter()
        self.found: dict[str, str] = {}
        self._lock = threading.Lock()

    def send_all(self, client: int) -> None:
        with httpx.Client(timeout=60) as connection:
            for number in range(EACH):
                key = f"{client}-{number}"
                self._send(connection, key, self.pictures[(client + number) % len(self.pictures)])

    def _send(self, connection: httpx.Client, key: str, picture: bytes) -> None:
        headers = {"Content-Type": "image/png", "Idempotency-Key": key}
        end = time.monotonic() + 300
        while time.monotonic() < end:
            try:
                answer = connection.post(f"{self.address}{POST}", content=picture, headers=headers)
            except httpx.TransportError:  # the service is being killed and started
                time.sleep(0.2)
                continue
            with self._lock:
                self.statuses[answer.status_code] += 1
            if answer.status_code in (200, 201):
                self.found[key] = answer.json()["inspections"][0]["id"]
                return
            assert answer.status_code in (503, 504), answer.text
            if answer.status_code == 503:
                assert int(answer.headers["retry-after"]) >= 1
            time.sleep(0.2)
        raise AssertionError(f"{key} was never inspected")

    def wait_for(self, n: int) -> None:
        end = time.monotonic() + 300
        while len(self.found) < n:
            assert time.monotonic() < end, f"only {len(self.found)} of {n} were inspected"
            time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_each_image_is_in_the_history_once_whatever_is_killed(closed_form_run: Path, tmp_path: Path) -> None:
    pictures = [trained_run.image(tmp_path / f"{n}.png", n).read_bytes() for n in range(12)]
    data, options = tmp_path / "data", ("--queue", "8", "--deadline-s", "60")
    total = CLIENTS * EACH
    with postgres_server() as database, ThreadPoolExecutor(CLIENTS) as pool:
        url = database.make_schema()
        with Service(closed_form_run, "widget", data, url, options) as service:
            clients = Clients(service.address, pictures)
            work = [pool.submit(clients.send_all, client) for client in range(CLIENTS)]
            clients.wait_for(total // 5)
            database.stop("immediate")
            before = clients.statuses[503]
            while clients.statuses[503] < before + 5:
                assert not any(one.done() for one in work), [one.exception() for one in work if one.done()]
                time.sleep(0.02)
            assert httpx.get(f"{service.address}/healthz").status_code == 200
            assert httpx.get(f"{service.address}/readyz").status_code == 503
            database.start()
            clients.wait_for(2 * total // 5)
        # The context ended with SIGKILL, under load.
        with Service(closed_form_run, "widget", data, url, options) as service:
            clients.address = service.address
            for one in work:
                one.result()
            assert service.stop() == 0
        assert clients.statuses.keys() <= {200, 201, 503, 504}
        with Store.open(url, data) as store:
            history = store.inspections.find(limit=10 * total)
            assert store.audit.verify().whole
    assert len(clients.found) == len(set(clients.found.values())) == total
    assert {one.id for one in history} == set(clients.found.values())
    assert len(history) == total
