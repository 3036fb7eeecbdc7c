"""Package faces that load their modules on first use."""

from __future__ import annotations

import sys
import types

import pytest

from advrad.utils.lazy import attach


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    face = types.ModuleType("face")
    monkeypatch.setitem(sys.modules, "face", face)
    face.__getattr__, face.__dir__ = attach("face", {"seed_of": "advrad.utils.seeding"})  # type: ignore[method-assign]
    return face


def test_a_name_is_loaded_once_and_kept(package: types.ModuleType) -> None:
    from advrad.utils.seeding import seed_of

    assert "seed_of" not in vars(package)
    assert package.seed_of is seed_of
    assert vars(package)["seed_of"] is seed_of


def test_names_are_listed_before_they_are_loaded(package: types.ModuleType) -> None:
    assert dir(package) == ["seed_of"]


def test_an_unknown_name_is_an_attribute_error(package: types.ModuleType) -> None:
    with pytest.raises(AttributeError, match="module 'face' has no attribute 'nonsense'"):
        package.nonsense  # noqa: B018
