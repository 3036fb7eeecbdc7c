"""The command line."""

from __future__ import annotations

from advrad.cli.main import main

__all__ = ["main"]
