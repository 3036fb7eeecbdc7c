"""The page's own files, read once at start and served under a name that changes with their content."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from fastapi.responses import PlainTextResponse, Response

_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}


@cache
def _contents() -> dict[str, bytes]:
    found: dict[str, bytes] = {}

    def collect(folder: Traversable, prefix: str) -> None:
        for entry in folder.iterdir():
            if entry.is_dir():
                collect(entry, f"{prefix}{entry.name}/")
            else:
                found[prefix + entry.name] = entry.read_bytes()

    collect(files("advrad.serving.page") / "static", "")
    return dict(sorted(found.items()))


@cache
def static_root() -> str:
    """Path under which the files lie; it holds a digest of them all, so browsers may keep them for good."""
    digest = hashlib.sha256()
    for name, content in _contents().items():
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return f"/static/{digest.hexdigest()[:16]}"


def static_response(path: str) -> Response:
    """Answer with one of the files. Nothing but these can be named, so no path leads elsewhere.

    Args:
        path: Path below ``/static/``, with the digest.
    """
    root, _, name = f"/static/{path}".removeprefix(static_root()).partition("/")
    content = _contents().get(name)
    if root or content is None:
        return PlainTextResponse("There is no such file. Load the page again.", status_code=404)
    return Response(
        content,
        media_type=_TYPES[name.rpartition(".")[2]],
        headers={"Cache-Control": "public, max-age=31536000, immutable"},
    )
