"""Put the service under more load than it can take, kill it, and check what it promises.

A model folder is served on this machine's loopback address, and images of a folder are sent to it::

    python performance/soak.py RUN IMAGES [--seconds 120] [--clients 16] [--rate R] [--db URL]

1. The bare engine, `advrad.load_detector(RUN).predict`, judges the images in a process of its own: before the load and
   after it. For comparison, one such process of one thread on each processor judges them as well, which is the most
   that the engine can do.
2. Clients that send one image after the other measure what the service can take.
3. Under load, 16 clients send at twice that rate (or at --rate). Nothing but 201 and 503 may come back, the 99th
   percentile of the time to an accepted answer must stay below the deadline, memory must stay within 10 % after the
   first quarter, and the accepted rate must reach 0.8 of the engine's. Clients and service share the processors.
4. The service is killed (SIGKILL) under load and started again. Every inspection whose answer arrived must be in the
   history, and must reach a webhook.

The exit status is 1 if a bound is broken. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import httpx
from soak_client import Pictures, Traffic, send
from soak_service import Service, bare_rate

from advrad.utils.threads import usable_processors

PRODUCT = "product"
PATH = f"/v1/products/{PRODUCT}/inspections"
LEAST_OF_ENGINE = 0.8
MOST_GROWTH = 0.10
#: Seconds for the webhook to get what was stored when the service died.
DELIVERY_S = 60.0
#: Seconds within which the first image under load must be answered.
FIRST_ANSWER_S = 30.0


class Receiver(BaseHTTPRequestHandler):
    """A webhook that notes which inspections reach it."""

    protocol_version = "HTTP/1.1"
    received: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        """Take a delivery."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.received.extend(one["id"] for one in body["inspections"])
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def receiver(folder: Path) -> Iterator[tuple[Path, list[str]]]:
    """A webhook, and the file that sends verdicts to it.

    Args:
        folder: Folder for the file.

    Returns:
        The file, and the identities of the inspections as they arrive.
    """
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    Receiver.received.clear()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (folder / "secret").write_text("a secret of at least thirty-two characters", encoding="utf-8")
    (folder / "secret").chmod(0o600)
    description = folder / "sinks.toml"
    address = f"http://127.0.0.1:{server.server_address[1]}/"
    description.write_text(
        f'[[sink]]\nname = "soak"\nkind = "webhook"\nurl = "{address}"\nsecret_file = "secret"\nbatch = 100\n',
        encoding="utf-8",
    )
    try:
        yield description, Receiver.received
    finally:
        server.shutdown()
        server.server_close()


def measured(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run all parts.

    Args:
        given: Options of the command line.
        folder: Folder for the data of the service.

    Returns:
        Figures by name, and under ``broken`` what was broken.
    """
    files = sorted(path for path in given.images.rglob("*.png"))[: given.most]
    if not files:
        raise SystemExit(f"{given.images}: no PNG file in it; give a folder of PNG images")
    pictures = Pictures([path.read_bytes() for path in files])
    result: dict[str, Any] = {
        "benchmark": "soak",
        "run": given.run.name,
        "clients": given.clients,
        "threads": given.threads,
    }
    before = bare_rate(given.run, files, given.threads, given.engine_seconds)
    result |= under_load(given, folder, pictures)
    after = bare_rate(given.run, files, given.threads, given.engine_seconds)
    result["engine_per_s"] = statistics.mean((before, after))
    result["engine_before_after"] = [before, after]
    result["of_engine"] = result["accepted_per_s"] / result["engine_per_s"]
    most = bare_rate(given.run, files, 1, given.engine_seconds, processes=given.threads)
    result["engine_most_per_s"] = most
    result["of_most"] = result["accepted_per_s"] / most
    result |= killed(given, folder, pictures, result["rate_per_s"])
    result["broken"] = broken(result, given.least_of_engine)
    return result


def under_load(given: argparse.Namespace, folder: Path, pictures: Pictures) -> dict[str, Any]:
    """Measure what the service can take, then send twice as much.

    Args:
        given: Options of the command line.
        folder: Folder for the data of the service.
        pictures: The images.
    """
    traffic = Traffic()
    with Service(given.run, PRODUCT, folder / "load", given.db, given.serve) as service:
        calm = Traffic()
        seconds = given.engine_seconds
        send(service.port, PATH, pictures, clients=given.clients, rate=None, seconds=seconds, traffic=calm)
        rate = given.rate or 2 * calm.rate
        with service.memory_watched() as memory:
            send(service.port, PATH, pictures, clients=given.clients, rate=rate, seconds=given.seconds, traffic=traffic)
        stopped = service.stop()
    quarter = len(memory) // 4
    settled, peak = max(memory[: quarter + 1]), max(memory[quarter:])
    sent = sum(traffic.statuses.values())
    return {
        "capacity_per_s": calm.rate,
        "rate_per_s": rate,
        "sent_per_s": sent / given.seconds,
        "seconds": given.seconds,
        "accepted_per_s": traffic.rate,
        "statuses": {str(status): number for status, number in sorted((calm.statuses + traffic.statuses).items())},
        "not_sent": traffic.late,
        "complaints": calm.complaints + traffic.complaints,
        "p50_s": percentile(traffic.seconds, 50),
        "p99_s": percentile(traffic.seconds, 99),
        "deadline_s": given.deadline,
        "memory_mb": settled / 1e6,
        "memory_growth": peak / settled - 1,
        "stop_status": stopped,
    }


def killed(given: argparse.Namespace, folder: Path, pictures: Pictures, rate: float) -> dict[str, Any]:
    """Kill the service under load, start it again, and look for every accepted inspection.

    Args:
        given: Options of the command line.
        folder: Folder for the data of the service.
        pictures: The images.
        rate: Requests for each second.
    """
    data, traffic = folder / "killed", Traffic()
    with receiver(folder) as (sinks, received):
        options = [*given.serve, "--sinks", str(sinks)]
        with Service(given.run, PRODUCT, data, given.db, options) as service:
            killer = threading.Thread(target=kill, args=(service, traffic, given.kill_after))
            killer.start()
            seconds = given.kill_after + FIRST_ANSWER_S
            send(service.port, PATH, pictures, clients=given.clients, rate=rate, seconds=seconds, traffic=traffic)
            killer.join()
            service.process.wait()
        at_death = len(set(received))
        with Service(given.run, PRODUCT, data, given.db, options) as service:
            with httpx.Client(base_url=service.address, timeout=30) as client:
                found = [client.get(f"/v1/inspections/{name}").status_code == 200 for name in traffic.accepted]
            end = time.monotonic() + DELIVERY_S
            while set(traffic.accepted) - set(received) and time.monotonic() < end:
                time.sleep(0.1)
            service.stop()
    return {
        "statuses_at_kill": {str(status): number for status, number in sorted(traffic.statuses.items())},
        "accepted_before_kill": len(traffic.accepted),
        "missing_in_history": found.count(False),
        "delivered_before_kill": at_death,
        "not_delivered": len(set(traffic.accepted) - set(received)),
        "delivered_twice": len(received) - len(set(received)),
    }


def kill(service: Service, traffic: Traffic, seconds: float) -> None:
    """Kill the service after some time of load, but not before it has answered.

    Args:
        service: The service.
        traffic: What was sent to it; nothing more is sent from then on.
        seconds: Time of load.
    """
    time.sleep(seconds)
    end = time.monotonic() + FIRST_ANSWER_S
    while not traffic.accepted and time.monotonic() < end:
        time.sleep(0.02)
    service.process.send_signal(signal.SIGKILL)
    traffic.over.set()


def percentile(values: Sequence[float], percent: int) -> float:
    """A percentile of values, NaN without values."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else float("nan")


def broken(result: dict[str, Any], least_of_engine: float) -> list[str]:
    """The bounds that a result breaks, in words.

    Args:
        result: Figures by name.
        least_of_engine: Least share of the engine's rate.
    """
    unexpected = {status: number for status, number in result["statuses"].items() if status not in ("201", "503")}
    # A connection that the kill cut has no status.
    others = set(result["statuses_at_kill"]) - {"0", "201", "503"}
    checks = {
        f"answers other than 201 and 503: {unexpected} {result['complaints']}": not unexpected,
        "no request was refused, so the load was below what the service can take": "503" in result["statuses"],
        f"p99 {result['p99_s']:.2f} s is not below the deadline": result["p99_s"] < result["deadline_s"],
        f"memory grew by {result['memory_growth']:.1%}": result["memory_growth"] <= MOST_GROWTH,
        f"{result['of_engine']:.2f} of the engine's rate": result["of_engine"] >= least_of_engine,
        f"it stopped with status {result['stop_status']}": result["stop_status"] == 0,
        f"answers other than 201 and 503 before the kill: {sorted(others)}": not others,
        "nothing was accepted before the kill": result["accepted_before_kill"] > 0,
        f"{result['missing_in_history']} accepted inspections are not in the history": not result["missing_in_history"],
        f"{result['not_delivered']} accepted inspections were not delivered": not result["not_delivered"],
    }
    return [words for words, kept in checks.items() if not kept]


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, print a table and a line of JSON, and return the values of that line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="model folder or export")
    parser.add_argument("images", type=Path, help="folder of PNG images")
    parser.add_argument("--seconds", type=float, default=120, help="duration of the load")
    parser.add_argument("--rate", type=float, help="requests for each second; twice what the service takes by default")
    parser.add_argument("--clients", type=int, default=16, help="clients that send at once")
    parser.add_argument("--threads", type=int, default=usable_processors(), help="threads that compute")
    parser.add_argument("--kill-after", type=float, default=10, help="seconds of load before the kill")
    parser.add_argument("--engine-seconds", type=float, default=10, help="duration of each measurement without load")
    parser.add_argument("--deadline", type=float, default=10, help="deadline of the service, in seconds")
    parser.add_argument("--least-of-engine", type=float, default=LEAST_OF_ENGINE, help="bound on the accepted rate")
    parser.add_argument("--most", type=int, default=64, help="images that are used at most")
    parser.add_argument("--db", help="address of the database; a SQLite file by default")
    given = parser.parse_args(arguments)
    given.serve = ["--deadline-s", str(given.deadline), "--threads", str(given.threads)]
    with tempfile.TemporaryDirectory() as folder:
        result = measured(given, Path(folder))
    for name, value in result.items():
        print(f"{name:24}{f'{value:.4g}' if isinstance(value, float) else value}")
    print(json.dumps(result))
    return result


if __name__ == "__main__":
    sys.exit(1 if main()["broken"] else 0)
