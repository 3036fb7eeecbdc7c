"""After an attack on a detector with bounds: no attacked score lies outside them, and wrong bounds are caught."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from toy_brightness import Brightness, flat

import advrad

DATA = (flat(0.3, 0.45, 0.52, 0.7), [0, 0, 1, 1])


@pytest.mark.parametrize(("norm", "eps"), [("linf", 4 / 255), ("l2", 0.5)])
def test_attacks_stay_inside_true_bounds_and_reach_them(norm: str, eps: float, tmp_path: Path) -> None:
    result = advrad.attack(Brightness(), DATA, attack="pgd", steps=10, norm=norm, eps=eps, output=tmp_path)
    assert result.bounds is not None and result.bounds.violations == () and result.bounds.images == 4
    assert 0.95 < result.bounds.reached <= 1, "the mean is attacked to its bound"
    assert not any(flag.name == "bounds broken" for flag in result.flags)
    stored = json.loads((tmp_path / "result.json").read_text())
    assert stored["bounds"] == {"pictures": 4, "reached": result.bounds.reached, "violations": []}


@pytest.mark.parametrize(("norm", "eps"), [("linf", 4 / 255), ("l2", 0.5)])
def test_wrong_bounds_are_reported_as_a_bug(norm: str, eps: float, tmp_path: Path) -> None:
    wrong = Brightness(honesty=0.5)
    result = advrad.attack(wrong, DATA, attack="pgd", steps=10, norm=norm, eps=eps, output=tmp_path)
    assert result.bounds is not None and {found.name for found in result.bounds.violations} == {
        row.name for row in result.rows
    }
    (flag,) = [flag for flag in result.flags if flag.name == "bounds broken"]
    assert "this is a bug in advrad" in flag.words
    first = result.bounds.violations[0]
    assert first.score > first.upper and first.attack.startswith("pgd")
    stored = json.loads((tmp_path / "result.json").read_text())
    assert len(stored["bounds"]["violations"]) == 4 and any(one["name"] == "bounds broken" for one in stored["flags"])


def test_detectors_without_bounds_have_no_such_check() -> None:
    result = advrad.attack(lambda images: images.mean((1, 2, 3)), DATA, attack="pgd", steps=2, eps=0.01)
    assert result.bounds is None and "bounds" not in result.to_dict()


def test_the_command_shows_the_check(capsys: pytest.CaptureFixture[str]) -> None:
    from advrad.cli.tables import show_attack

    for honesty, words in ((1.0, "all 4 images inside"), (0.5, "BROKEN")):
        show_attack(advrad.attack(Brightness(honesty=honesty), DATA, attack="pgd", steps=5, eps=0.02), "title")
        shown = capsys.readouterr().out
        assert words in shown and ("bug in advrad" in " ".join(shown.split())) is (honesty < 1)
