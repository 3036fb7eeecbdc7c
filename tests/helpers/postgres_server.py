"""A PostgreSQL server of one's own: made in a temporary folder, on the loopback address, stopped at will."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from needed_programs import needed
from two_processes import kept_port

USER, PASSWORD = "advrad", "s3cret-word"


class PostgresServer:
    """A running server; :func:`postgres_server` makes one.

    Args:
        folder: Folder of the server, owned by who runs it.
        port: Port on the loopback address.
        owner: User that runs it, for root, whom PostgreSQL refuses; None for this user.
    """

    def __init__(self, folder: Path, port: int, owner: pwd.struct_passwd | None) -> None:
        self.folder, self.port, self._owner = folder, port, owner
        self._made = 0

    def url(self, database: str = "postgres") -> str:
        """URL of a database, as `--db` takes it."""
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def make_database(self, options: str = "") -> str:
        """Make an empty database, and return its URL; :meth:`make_schema` is much quicker."""
        self._made += 1
        name = f"line_{self._made}"
        self.execute(f"CREATE DATABASE {name} {options}")
        return self.url(name)

    def make_schema(self) -> str:
        """Make an empty schema in one database, and return a URL whose tables are there."""
        self._made += 1
        name = f"line_{self._made}"
        self.execute(f"CREATE SCHEMA {name}")
        return self.url() + f"?options=-csearch_path%3D{name}"

    def execute(self, statement: str, url: str | None = None) -> list[tuple[Any, ...]]:
        """Run a statement as the owner of the server, and return its rows."""
        with psycopg.connect(url or self.url(), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        limits = "-c fsync=off -c max_connections=60 -c max_wal_size=64MB"
        settings = f"-h 127.0.0.1 -p {self.port} -k {self.folder} {limits}"
        self._run("pg_ctl", "-l", str(self.folder / "log"), "-o", settings, "-w", "-t", "150", "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop the server: `fast` closes all connections, `immediate` kills it as a crash would."""
        self._run("pg_ctl", "-m", mode, "-w", "-t", "150", "stop")

    def initialise(self) -> None:
        """Make the server's files."""
        (self.folder / "password").write_text(PASSWORD)
        os.chmod(self.folder / "password", 0o644)
        self._run(
            *("initdb", "-U", USER, "--auth-host=scram-sha-256", "--auth-local=trust", "--no-sync"),
            *("--encoding=UTF8", "--locale=C.UTF-8", f"--pwfile={self.folder / 'password'}"),
        )

    def _run(self, program: str, *arguments: str) -> None:
        other: dict[str, Any] = {}
        if self._owner is not None:
            other = {"user": self._owner.pw_uid, "group": self._owner.pw_gid, "extra_groups": []}
        said = self.folder / f"{program}.txt"
        with said.open("w") as file:  # not a pipe, which the server would inherit and keep open
            command = [needed(program), "-D", str(self.folder / "data"), *arguments]
            done = subprocess.run(command, cwd=self.folder, stdout=file, stderr=file, timeout=180, **other)
        log = self.folder / "log"
        assert done.returncode == 0, said.read_text() + (log.read_text()[-2000:] if log.exists() else "")


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Start a server, and remove it and its files at the end. Skips the test where PostgreSQL is not installed."""
    needed("initdb")
    # Not below pytest's folders: they are closed to other users, and too long for the name of a socket.
    folder = Path(tempfile.mkdtemp(prefix="advrad-pg-", dir=_quick_place()))
    owner = pwd.getpwnam("nobody") if os.getuid() == 0 else None
    if owner is not None:
        os.chown(folder, owner.pw_uid, owner.pw_gid)
    with kept_port() as port:
        server = PostgresServer(folder, port, owner)
        try:
            server.initialise()
            server.start()
            yield server
        finally:
            try:
                if (folder / "data" / "postmaster.pid").exists():
                    server.stop("immediate")
            finally:
                shutil.rmtree(folder, ignore_errors=True)


def _quick_place() -> str | None:
    """A folder in memory, if there is much room; thousands of small files are slow on a busy disk."""
    memory = Path("/dev/shm")
    return str(memory) if memory.is_dir() and shutil.disk_usage(memory).free > 2_000_000_000 else None
