"""Temporary replacement of an attribute, for libraries that offer no other way to change what they use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def substituted(owner: object, name: str, value: object) -> Iterator[None]:
    """Replace an attribute while the context is open, and restore it afterwards.

    Args:
        owner: Module or class.
        name: Name of the attribute.
        value: Temporary value.
    """
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)
