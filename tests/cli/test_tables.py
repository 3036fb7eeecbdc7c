"""Results as tables."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import advrad
from advrad.attacks.results import AttackResult, ChecksResult, CurvePoint, CurveResult
from advrad.attacks.sanity_checks import Flag
from advrad.benchmark.estimate import Estimate
from advrad.cli import tables

FLAG = Flag("no_gradient", "the gradients are zero")


@pytest.fixture(scope="module")
def attacked() -> AttackResult:
    images = 0.5 * torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images[4:, :, 4:8, 4:8] = 1.0
    detector = advrad.wrap(lambda images: images.amax((1, 2, 3)), deterministic=True)
    return advrad.attack(detector, (images, [0] * 4 + [1] * 4), attack="pgd", eps=0.5, steps=2)


def rows(text: str) -> dict[str, str]:
    """The rows of a table by the text of their first cell."""
    cells = [[cell.strip() for cell in line.strip("│┃").split("│")] for line in text.splitlines() if line[:1] == "│"]
    return {first: " | ".join(rest) for first, *rest in cells}


def test_an_attack_shows_figures_before_and_after(attacked: AttackResult, capsys: pytest.CaptureFixture[str]) -> None:
    result = replace(attacked, note="a note", left_out={"square": "needs many queries"}, flags=(FLAG,))
    tables.show_attack(result, "spots")
    out = capsys.readouterr().out
    shown = rows(out)
    assert shown["attack"] == "pgd; linf 127.5/255; noise unknown"
    assert shown["image AUROC"] == "1.0000 -> 0.0000"
    assert shown["defects found (TPR)"] == "not measured -> not measured"
    assert shown["images"] == "4 normal, 4 anomalous"
    assert shown["results"] == "not stored" and shown["note"] == "a note"
    assert "left out  square: needs many queries" in out
    assert "WARNING" in out and "no_gradient: the gradients are zero" in out


@pytest.mark.parametrize("flags", [(), (FLAG,)])
def test_checks_say_whether_a_sign_was_found(flags: tuple[Flag, ...], capsys: pytest.CaptureFixture[str]) -> None:
    tables.show_checks(ChecksResult(flags=flags, auroc={"clean": 1.0}, n_images=4), "spots")
    out = capsys.readouterr().out
    assert rows(out)["clean"] == "1.0000"
    assert ("This is no proof" in out) == (not flags) and ("WARNING" in out) == bool(flags)


def test_a_curve_shows_each_flag_once(attacked: AttackResult, capsys: pytest.CaptureFixture[str]) -> None:
    result = replace(attacked, flags=(FLAG,))
    points = tuple(CurvePoint(value=value, given=f"{value:g}", result=result) for value in (0.25, 0.5))
    tables.show_curve(
        CurveResult(over="eps", attack="pgd", norm="linf", eps="0.5", noise="unknown", category="spots", points=points),
        "spots",
    )
    out = capsys.readouterr().out
    assert rows(out)["clean"].startswith("1.0000")
    assert rows(out)["0.25"].startswith("0.0000")
    assert out.count("no_gradient") == 1


def test_an_estimate_sums_up_the_jobs_of_a_detector(capsys: pytest.CaptureFixture[str]) -> None:
    tables.show_estimates([], "left")
    assert capsys.readouterr().out == "nothing is left to do\n"
    left = [
        Estimate("ours", "bottle", 0, 3, 60.0),
        Estimate("ours", "cable", 0, 2, 30.0),
        Estimate("pls", "cable", 0, 1, 1.0),
    ]
    tables.show_estimates(left, "left")
    shown = rows(capsys.readouterr().out)
    assert shown == {"ours": "2 | 5 | 1:30", "pls": "1 | 1 | 0:01", "all": "3 | 6 | 1:31"}


def test_names_are_not_taken_for_markup(capsys: pytest.CaptureFixture[str]) -> None:
    tables.show_table("[red]title[/red]", [("[bold]a[/bold]", "b\udcff")], ("name", "value"))
    out = capsys.readouterr().out
    assert "[red]title[/red]" in out and "[bold]a[/bold]" in out and "b\\udcff" in out
