"""The engine that carries out tasks on the machines of a Ray cluster."""

from __future__ import annotations

import logging
import os
import re
import secrets
import socket
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from advrad.engine.base import ItemT, Resources, TaskT, everything
from advrad.engine.messages import Kind, decode, encode
from advrad.engine.orders import Order, Orders
from advrad.engine.ray_process import code_of_this_machine
from advrad.errors import ConfigError, EngineError
from advrad.utils.substitution import substituted
from advrad.utils.threads import usable_processors

#: Seconds in which a cluster must answer.
ANSWER_S = 10.0
#: Seconds after which it is looked at whether machines joined or left.
LOOK_S = 2.0
#: Items of one task that may wait for this process.
_AHEAD = 16
_MB = 1024**2
#: What a client of HTTP/2, and so of a Ray cluster, says first, with empty settings; and the kind of the answer, which
#: stands in its fourth byte.
_HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
_HTTP2_SETTINGS = b"\4"


class RayEngine:
    """Carries out tasks on the machines of a Ray cluster. A context manager, which leaves the cluster at its end.

    Ray itself repeats nothing: what is left of a task whose machine was lost is given out again.

    Args:
        address: Address of the cluster, HOST:PORT, or "auto" for the one that this machine belongs to. None for the
            one in RAY_ADDRESS, or without it for one on this machine that ends with the context.
        jobs: Most tasks at once; None for as many as the machines take.

    Raises:
        ConfigError: The address has another form, or Ray is not installed.
    """

    shares_files = False

    def __init__(self, address: str | None = None, jobs: int | None = None) -> None:
        self._address = address if address is not None else os.environ.get("RAY_ADDRESS") or None
        self._jobs = jobs
        self._ray = ready_ray()
        self._known: list[dict[str, float]] = []
        self._asked_s = -LOOK_S
        self._opened = ExitStack()
        if self._address not in (None, "auto") and not re.fullmatch(r"[\w.-]+:\d+|\[[\da-fA-F:]+\]:\d+", self._address):
            raise ConfigError(
                "must be HOST:PORT of a Ray cluster that this machine belongs to, or auto; there is no way through"
                " ray://, so start the command on a machine of the cluster",
                option="address",
                value=self._address,
            )

    def __enter__(self) -> RayEngine:
        """Join the cluster, or start one.

        Raises:
            EngineError: There is no cluster at the address, or it does not answer.
        """
        where: dict[str, Any] = {"address": self._address}
        if self._address is None:
            where = {"address": "local", "num_cpus": usable_processors(), "include_dashboard": False}
        else:
            _check_that_it_answers(self._address)
        with ExitStack() as opened:
            # Ray prints what happens to its machines on standard output, and has no setting against it.
            opened.enter_context(substituted(self._ray._private.worker, "print_to_stdstream", _say_nothing))
            try:
                self._ray.init(**where, log_to_driver=False, logging_level=logging.CRITICAL)
            except Exception as error:  # Ray raises many kinds
                place = f"the Ray cluster at {self._address}" if self._address else "Ray on this machine"
                raise EngineError(f"{place} cannot be used: {_first_line(error)}") from error
            opened.callback(self._ray.shutdown)
            self._opened = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    @property
    def workers(self) -> int:
        """Number of tasks of one processor that are carried out at once."""
        return self._places(Resources())

    def in_words(self) -> str:
        """What computes, in words for the user."""
        machines = self._machines()
        processors = int(sum(machine.get("CPU", 0) for machine in machines))
        place = f"the Ray cluster at {self._address}" if self._address else "Ray on this machine alone"
        count = f"{len(machines)} machine{'s' if len(machines) > 1 else ''}"
        return f"computing with {place}: {count}, {processors} processors"

    def run(
        self,
        work: Callable[[TaskT], Iterable[ItemT]],
        tasks: Iterable[TaskT],
        *,
        left: Callable[[TaskT], TaskT | None] = everything,
        resources: Resources = Resources(),
    ) -> Generator[ItemT, None, None]:
        """Carry out tasks, see :meth:`Engine.run`."""
        begin = self._beginner(encode(work), resources)
        orders, busy = Orders(tasks, left), dict[Any, Order]()
        try:
            while True:
                while len(busy) < self._places(resources) and (order := orders.next()) is not None:
                    busy[begin(order)] = order
                if not busy:
                    return
                for stream in self._speaking(list(busy)):
                    match self._receive(stream):
                        case Kind.ITEM, item:
                            yield item
                        case Kind.DONE, _:
                            del busy[stream]
                        case Kind.FAILED, error:
                            raise error
                        case str(cause):
                            orders.lost(busy.pop(stream), cause)
        finally:
            for stream in busy:
                self._ray.cancel(stream, force=True)

    def _beginner(self, work: bytes, resources: Resources) -> Callable[[Order], Any]:
        """A function that begins a task in the cluster and returns the stream of its messages."""
        remote = self._ray.remote(_carrier()).options(
            num_returns="streaming",
            max_retries=0,
            num_cpus=resources.cpus,
            num_gpus=resources.gpus,
            memory=None if resources.memory_mb is None else resources.memory_mb * _MB,
            _generator_backpressure_num_objects=_AHEAD,
        )
        shared, run, threads = self._ray.put(work), secrets.token_hex(8), max(1, int(resources.cpus))
        return lambda order: remote.remote(sys.path, code_of_this_machine(), run, shared, encode(order.task), threads)

    def _speaking(self, streams: list[Any]) -> list[Any]:
        """Wait until a task has something to say or is lost, and return all of which that is true."""
        ready, _ = self._ray.wait(streams, num_returns=1, timeout=LOOK_S)
        if ready and len(streams) > 1:
            ready, _ = self._ray.wait(streams, num_returns=len(streams), timeout=0)
        return list(ready)

    def _receive(self, stream: Any) -> tuple[Kind, Any] | str:
        """The next message of a task, or how its process or machine was lost.

        Raises:
            EngineError: The task cannot be carried out.
        """
        try:
            data = self._ray.get(next(stream))
        except self._ray.exceptions.RayTaskError as error:
            raise EngineError(f"a task cannot be carried out in the Ray cluster: {_first_line(error.cause)}") from error
        except self._ray.exceptions.RayError as error:
            return f"by {type(error).__name__}"
        if isinstance(data, str):
            raise EngineError(data)
        message: tuple[Kind, Any] = decode(data)
        return message

    def _machines(self) -> list[dict[str, float]]:
        """What each machine of the cluster has; it is asked again after a while."""
        now = time.monotonic()
        if now - self._asked_s > LOOK_S:
            self._known = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
            self._asked_s = now
        return self._known

    def _places(self, resources: Resources) -> int:
        """Number of tasks that the cluster takes at once, >= 1.

        Raises:
            EngineError: No machine takes one.
        """
        needs = {"CPU": resources.cpus, "GPU": resources.gpus, "memory": (resources.memory_mb or 0) * _MB}
        needs = {name: need for name, need in needs.items() if need}
        places = sum(
            min(int(machine.get(name, 0) // need) for name, need in needs.items()) for machine in self._machines()
        )
        if places == 0:
            wanted = ", ".join(f"{name} {need:g}" for name, need in needs.items())
            raise EngineError(f"no machine of the Ray cluster has what one task needs ({wanted}); add one that has it")
        return places if self._jobs is None else min(places, self._jobs)


def _check_that_it_answers(address: str) -> None:
    """Refuse an address where no cluster answers; Ray itself would wait for minutes and say much.

    Raises:
        EngineError: Nothing listens there, or what listens does not speak as a cluster does.
    """
    if address == "auto" or os.environ.get("RAY_USE_TLS", "0") != "0":
        return
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), ANSWER_S) as connection:
            connection.sendall(_HTTP2_GREETING)
            answer = connection.recv(9)
    except OSError as error:
        reason = error.strerror or str(error)
    else:
        if answer[3:4] == _HTTP2_SETTINGS:
            return
        reason = "what listens there is something else"
    raise EngineError(
        f"no Ray cluster answers at {address} ({reason}); give the one that 'ray start' printed on its first machine"
    )


def _carrier() -> Callable[..., Iterator[bytes | str]]:
    """What Ray sends to other machines by value, so that it can say there what is missing."""

    def carry_out(folders: list[str], *order: Any) -> Iterator[bytes | str]:
        import platform
        import sys

        sys.path.extend(folder for folder in folders if folder not in sys.path)
        try:
            from advrad.engine import ray_process
        except ImportError as error:
            yield f"{platform.node()} cannot load advrad ({error}); install the same advrad on all machines"
            return
        yield from ray_process.carry_out(*order)

    return carry_out


def _say_nothing(data: object, ignore_prefix: bool) -> None:
    """Stands in for Ray's function that prints."""


def _first_line(error: object) -> str:
    """The first line of an error's text with something in it."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def ready_ray() -> Any:
    """The package, told to send nothing anywhere and to keep quiet.

    Raises:
        ConfigError: It is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_agent_register_timeout_ms", "28000")  # a busy machine needs more than 15 s
    try:
        import ray
    except ImportError as error:
        raise ConfigError(f"needs {error.name}: pip install 'advrad[ray]'", option="engine", value="ray") from None
    return ray
