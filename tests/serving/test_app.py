from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from datetime import datetime, timedelta
from pathlib import Path

import closed_form_run
import pytest
from fastapi.testclient import TestClient

from advrad.errors import CheckpointError, ConfigError
from advrad.serving import app as app_module
from advrad.serving.api.logs import set_up_logs
from advrad.serving.app import check_settings, create_app
from advrad.serving.errors import DeadlineExceeded, StoreUnavailable
from advrad.serving.records import InspectionAnswer, InspectionRequest
from advrad.serving.settings import ServeSettings, named_runs

POST = "/v1/products/widget/inspections"
PNG = {"content-type": "image/png"}


@pytest.fixture(scope="session")
def served_run(widgets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return closed_form_run.write(widgets, tmp_path_factory.mktemp("served") / "widget")


@pytest.fixture
def log() -> io.StringIO:
    stream = io.StringIO()
    set_up_logs(stream)
    return stream


@pytest.fixture
def client(served_run: Path, tmp_path: Path, log: io.StringIO) -> Iterator[TestClient]:
    app = create_app(
        ServeSettings(data=tmp_path, queue=2, workers=1, max_images=8, deadline_s=60), {"widget": served_run}
    )
    with TestClient(app, base_url="http://localhost") as found:
        yield found


@pytest.fixture(scope="session")
def picture(widgets: Path) -> bytes:
    return (widgets / "train" / "good" / "000.png").read_bytes()


def test_every_answer_has_the_security_headers(client: TestClient, picture: bytes) -> None:
    for answer in (
        client.get("/"),
        client.get("/healthz"),
        client.get("/nothing"),
        client.post("/healthz"),
        client.get("/v1/products", headers={"host": "evil.example"}),
        client.post(POST, content=picture, headers=PNG),
        client.post(POST, content=b"x" * 60_000_000, headers=PNG),
    ):
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'")
        assert "unsafe" not in policy and "http" not in policy and "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert "camera=(self)" in answer.headers["permissions-policy"]
        assert answer.headers["cache-control"]


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/debug", "/docs/oauth2-redirect", "/.env", "/static/../app.py"])
def test_there_are_no_pages_for_developers(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_the_description_has_an_example_for_each_body(client: TestClient) -> None:
    description = client.get("/openapi.json").json()
    assert description["info"]["title"] == "advrad"
    assert description["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert description["paths"]["/v1/inspections"]["get"]["security"] == [{"key": []}]
    assert "security" not in description["paths"]["/healthz"]["get"]
    assert "HTTPValidationError" not in description["components"]["schemas"]
    text = json.dumps(description)
    assert '"examples"' in text and "http://" not in text and "https://" not in text
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            assert operation["description"] or operation["summary"], (method, path)
            assert set(operation["responses"]) & {"200", "201", "204"}, (method, path)


def test_ready_until_the_history_is_gone_and_again_when_it_is_back(
    client: TestClient, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = client.app.state.parts  # type: ignore[attr-defined]
    assert client.get("/readyz").json() == {"status": "ok", "reasons": []}

    def gone(*_: object) -> None:
        raise StoreUnavailable("the database does not answer", "start it")

    with monkeypatch.context() as patch:
        patch.setattr(type(parts.store), "ping", gone)
        patch.setattr(type(parts.store.inspections), "add_many", gone)
        patch.setattr(type(parts.store.outbox), "waiting", gone)
        answer = client.get("/readyz")
        assert (answer.status_code, answer.json()["reasons"]) == (503, ["the history cannot be reached"])
        assert client.get("/v2/health/ready").status_code == 503
        assert client.get("/healthz").status_code == 200
        failed = client.post(POST, content=picture, headers=PNG)
        assert (failed.status_code, failed.json()["error"]["code"]) == (503, "store_unavailable")
        assert failed.headers["retry-after"] == "1"
        assert "advrad_store_up 0.0" in client.get("/metrics").text
    assert client.get("/readyz").status_code == 200
    assert client.post(POST, content=picture, headers=PNG).status_code == 201


def test_not_ready_while_stopping(client: TestClient) -> None:
    client.app.state.parts.state.stopping = True  # type: ignore[attr-defined]
    assert client.get("/readyz").json()["reasons"] == ["the service is stopping"]
    assert client.get("/healthz").status_code == 200


def test_a_full_queue_says_when_to_come_again(
    client: TestClient, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is finished before all images were sent, however slowly they are."""
    parts = client.app.state.parts  # type: ignore[attr-defined]
    submit, add_many = parts.service.submit, parts.store.inspections.add_many
    sent, all_sent = [], threading.Event()

    def counted(request: InspectionRequest) -> Future[InspectionAnswer]:
        sent.append(request)
        try:
            return submit(request)  # type: ignore[no-any-return]
        finally:
            if len(sent) == 8:
                all_sent.set()

    def held(*values: object) -> object:
        assert all_sent.wait(60)
        return add_many(*values)

    monkeypatch.setattr(parts.service, "submit", counted)
    monkeypatch.setattr(parts.store.inspections, "add_many", held)
    files = [("files", (f"{number}.png", picture, "image/png")) for number in range(8)]
    answer = client.post(POST, files=files)
    assert answer.status_code == 201
    found = answer.json()["inspections"]
    codes = [one["error"]["code"] for one in found if "error" in one]
    assert codes and set(codes) == {"queue_full"} and len(codes) < 8
    assert len(client.get("/v1/inspections").json()["inspections"]) == 8 - len(codes)


def test_an_image_that_was_not_inspected_in_time(
    client: TestClient, picture: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = client.app.state.parts  # type: ignore[attr-defined]
    late: Future[InspectionAnswer] = Future()
    late.set_exception(DeadlineExceeded("the image was not inspected within 10 s", "send it again"))
    monkeypatch.setattr(parts.service, "submit", lambda request: late)
    answer = client.post(POST, content=picture, headers=PNG)
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")
    sent = {"inputs": [{"name": "image", "shape": [1, 1, 3], "datatype": "UINT8", "data": [1, 2, 3]}]}
    assert client.post("/v2/models/widget/infer", json=sent).status_code == 504


def test_figures_count_what_happened(client: TestClient, picture: bytes) -> None:
    found = client.post(POST, content=picture, headers=PNG).json()["inspections"][0]
    client.get("/secret-of-a-stranger")
    client.request("BREW", "/healthz")
    text = client.get("/metrics").text
    verdict = "defective" if found["defective"] else "good"
    assert f'advrad_inspections_total{{product="widget",verdict="{verdict}"}} 1.0' in text
    route = 'route="/v1/products/{product}/inspections",status="201"'
    assert f'advrad_requests_total{{method="POST",{route}}} 1.0' in text
    assert 'advrad_requests_total{method="GET",route="unmatched",status="404"} 1.0' in text
    assert 'method="other"' in text and "BREW" not in text and "stranger" not in text
    assert 'advrad_drift_alarm{product="widget"} 0.0' in text
    assert "advrad_queue_length 0.0" in text and "advrad_store_up 1.0" in text


def test_the_log_is_json_and_holds_no_notes_and_no_pictures(
    client: TestClient, picture: bytes, log: io.StringIO
) -> None:
    found = client.post(POST, content=picture, headers=PNG, params={"part_id": "part-secret"}).json()
    path = f"/v1/inspections/{found['inspections'][0]['id']}/review"
    assert client.put(path, json={"label": "good", "note": "note-secret"}).status_code == 200
    client.get("/v1/inspections", params={"text": "search-secret"})
    client.get("/path-secret%0a%7b%7d")
    rows = [json.loads(line) for line in log.getvalue().splitlines()]
    requests = [row for row in rows if row["event"] == "request"]
    assert {"request", "route", "status", "ms", "key", "method"} <= set(requests[0])
    assert [row["status"] for row in requests] == [201, 200, 200, 404]
    assert "secret" not in log.getvalue() and "PNG" not in log.getvalue()


def test_a_defect_is_told_without_the_values_of_variables(
    served_run: Path, tmp_path: Path, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(ServeSettings(data=tmp_path), {"widget": served_run})
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:

        def broken(*_: object) -> None:
            hidden = "value-" + "secret"
            raise ZeroDivisionError(len(hidden))

        monkeypatch.setattr(type(app.state.parts.products), "status", broken)
        answer = client.get("/v1/products")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "defect")
    text = log.getvalue()
    assert "ZeroDivisionError" in text and "value-secret" not in text
    assert answer.headers["x-request-id"] in text


def test_an_error_of_the_system_is_not_swallowed(client: TestClient, log: io.StringIO) -> None:
    parts = client.app.state.parts  # type: ignore[attr-defined]

    def broken() -> None:
        raise PermissionError(13, "denied")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(parts.products), "status", lambda self: broken())
        assert client.get("/v1/products").status_code == 500
    assert "PermissionError" in log.getvalue()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "plant.example", "127.0.0.1.nip.io", ""])
def test_without_keys_only_this_machine_is_served(host: str) -> None:
    with pytest.raises(ConfigError, match="needs keys"):
        check_settings(ServeSettings(host=host))
    check_settings(ServeSettings(host=host, keys=Path("keys")))


def test_names_of_products() -> None:
    assert named_runs(["a=x/y", "x/b"]) == {"a": Path("x/y"), "b": Path("x/b")}
    assert named_runs(["a=b=c"]) == {"a": Path("b=c")}
    with pytest.raises(ConfigError, match="two products"):
        named_runs(["a=x", "y/a"])


def test_old_images_are_deleted_while_the_service_runs(
    served_run: Path, tmp_path: Path, log: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, object]] = []
    twice = threading.Event()

    def apply(self: object, now: datetime, age: object, size: object) -> None:
        asked.append((age, size))
        if len(asked) == 1:
            raise StoreUnavailable("the database does not answer", "start it")
        twice.set()

    monkeypatch.setattr(app_module, "_RETENTION_S", 0.01)
    app = create_app(ServeSettings(data=tmp_path, keep_days=2, keep_gb=1.5), {"widget": served_run})
    monkeypatch.setattr(type(app.state.parts.store.retention), "apply", apply)
    with TestClient(app):
        assert twice.wait(60)
    assert asked[0] == (timedelta(days=2), 1_500_000_000)
    assert "old images were not deleted" in log.getvalue()


def test_a_model_that_cannot_be_loaded_leaves_no_database_open(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError):
        create_app(ServeSettings(data=tmp_path / "data"), {"widget": tmp_path / "missing"})
    assert not [path for path in (tmp_path / "data").rglob("*") if path.name.endswith("-wal")]


def test_names_of_hosts_come_separated_by_commas(served_run: Path, tmp_path: Path) -> None:
    settings = ServeSettings.parse({"hosts": "plant.example, Line-2 ,", "data": tmp_path})
    assert settings.hosts == ("plant.example", "line-2")
    with TestClient(create_app(settings, {"widget": served_run})) as client:
        for host, status in (("LINE-2:8000", 200), ("localhost", 200), ("other.example", 403)):
            assert client.get("/healthz", headers={"host": host}).status_code == status


def test_memory_for_requests_holds_one_body_at_least() -> None:
    assert ServeSettings(queue_mb=1, max_body_mb=50).max_held == 50_000_000
    assert ServeSettings(queue_mb=80, max_body_mb=50).max_held == 80_000_000
