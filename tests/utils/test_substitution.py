"""An attribute is replaced for a while only."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from advrad.utils.substitution import substituted


def test_a_substitution_ends_with_its_context() -> None:
    owner = SimpleNamespace(name="before")
    with pytest.raises(ZeroDivisionError), substituted(owner, "name", "replaced"):
        assert owner.name == "replaced"
        raise ZeroDivisionError
    assert owner.name == "before"
