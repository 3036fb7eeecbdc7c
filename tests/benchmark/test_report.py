"""The report of a bench: complete, safe against hostile names, clear about missing results, written atomically."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from benchmark_folders import MACHINE, attacked, cell, clean, failed, make_bench, missing, write
from html_page import Page, svg_source
from PIL import Image
from tabulate import LATEX_ESCAPE_RULES

from advrad.benchmark import report as benchreport
from advrad.benchmark.formats import _TEX_SYMBOLS, escape_latex, escape_markdown
from advrad.benchmark.report import bench_report
from advrad.errors import DataError, OutputError

FILES = ["index.html", "tables.md", "results.csv", "tables.tex", "dilemma.png"]
HOSTILE = [
    "<script>alert(1)</script>",
    "</style></title><img src=x onerror=alert(1)>",
    "a\"b'c & <b>",
    "{{ 7 * 7 }} {% raw %}",
    r"$\foo_{$ 50% #1 ~ ^ \input{x} a_b",
    "[2pt] *x* | y `z` -- ---",
    "_hidden",
    "zero\x00 line\nbreak\ttab \u202e",
    "\N{GREEK SMALL LETTER SIGMA} é \u4e2d\u6587 \N{GRINNING FACE}",
]


def family(kind: str, sigma: float, area: float, left: float) -> list[dict[str, Any]]:
    common = {"kind": kind, "options": {"sigma": sigma}}
    label = f"{kind} {sigma}"
    return [clean(label, area, **common), attacked(label, left, **common)]


def everything() -> list[dict[str, Any]]:
    flag = {"name": "flat", "words": "no gradient"}
    proof = {"certified_auroc": {"0.1": 0.4321, "1": 0.0}, "method": "median", "draws": 40, "confidence": 0.9}
    return [
        *family("purified", 0.1, 0.913, 0.107),
        *family("purified", 0.3, 0.654, 0.321),
        *family("paper", 0.1, 0.945, 0.606),
        *family("paper", 0.3, 0.957, 0.777),
        clean("plain", 0.876, seed=0),
        clean("plain", 0.834, seed=1),
        attacked("plain", 0.123, figures={"flags": [flag]}),
        cell("plain", certificate="l2", figures=proof, seconds=12345.0),
        failed(clean("broken", 0.9), "ValueError: images <of> $nothing_"),
        missing(clean("later", 0.9)),
    ]


TEX_RULES = LATEX_ESCAPE_RULES | _TEX_SYMBOLS
COMMANDS = set(re.findall(r"[a-zA-Z]+", " ".join(TEX_RULES.values()))) | {
    *("begin", "end", "centering", "caption", "label", "resizebox", "ifdim", "width", "linewidth", "else", "fi"),
    *("toprule", "midrule", "bottomrule", "textbf"),
}


def test_every_file_is_written_and_named(tmp_path: Path) -> None:
    folder = make_bench(tmp_path / "out", everything())
    paths = bench_report(folder, folder / "report")
    assert paths == [folder / "report" / name for name in FILES]
    assert sorted(path.name for path in (folder / "report").iterdir()) == sorted([*FILES, ".advrad-output"])
    with Image.open(paths[-1]) as image:
        assert min(image.size) > 300
        levels = image.convert("RGB").getcolors(1 << 20)
    assert levels is not None and len(levels) > 50  # something is drawn
    before = {path: path.read_bytes() for path in paths}
    bench_report(folder, folder / "report")
    assert {path: path.read_bytes() for path in paths if path.suffix != ".png"} == {
        path: text for path, text in before.items() if path.suffix != ".png"
    }


def test_the_page_and_the_tables_hold_every_figure(tmp_path: Path) -> None:
    folder = make_bench(tmp_path / "out", everything())
    bench_report(folder, tmp_path / "report")
    source = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    page = Page(source)
    markdown = (tmp_path / "report" / "tables.md").read_text(encoding="utf-8")
    latex = (tmp_path / "report" / "tables.tex").read_text(encoding="utf-8")
    figures = ["0.913", "0.107", "0.654", "0.321", "0.945", "0.606", "0.957", "0.777", "0.123", "0.432", "0.000"]
    figures += ["0.855", "0.030", "12345", "not run", "failed"]  # mean and spread of two seeds; seconds; states
    for text in (page.text, markdown, latex):
        assert [figure for figure in figures if figure not in text] == []
    for text in (page.text, markdown.replace("\\", "")):
        assert "1 of 14 cells failed" in text and "1 of 14 cells were not run yet" in text
        assert "Sanity checks distrust 1 of 12 figures" in text
        assert "plain on nut (seed 0): flat: no gradient." in text
        assert "broken on nut, clean, seed 0: ValueError: images <of> $nothing_" in text
        assert "Processor A, 2 cores, 7.5 GiB" in text and "c0de" in text and "torch 2.14.1" in text
        assert "2026-01-02T03:04:05" in text and "advrad bench GRID" in text
    assert 'name = "by hand"' in page.text


def test_the_page_stands_alone_and_follows_the_light(tmp_path: Path) -> None:
    folder = make_bench(tmp_path / "out", everything())
    bench_report(folder, tmp_path / "report")
    source = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    page = Page(source)
    assert page.all("script") == page.all("link") == []
    assert "http:" not in source
    assert "prefers-color-scheme: dark" in source
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    targets = {attributes["href"] for attributes in page.all("a")}
    assert targets and targets <= {f"#{name}" for name in identifiers}
    assert len(page.all("img")) == len(page.plots()) == 2
    assert all(image["alt"] for image in page.plots())
    for image in page.plots():
        assert not any("nan" in path.get("d", "") for path in ElementTree.fromstring(svg_source(image)).iter())


def test_the_best_is_bold_and_what_is_lost_is_marked(tmp_path: Path) -> None:
    folder = make_bench(tmp_path / "out", [clean("a", 0.9), clean("b", 0.8), failed(clean("c", 0.7))])
    bench_report(folder, tmp_path / "report")
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert '<td class="best">0.900 [0.880, 0.920]</td>' in page and '<td class="">0.800 [' in page
    assert '<td class="lost">failed</td>' in page
    markdown = (tmp_path / "report" / "tables.md").read_text(encoding="utf-8")
    cells = [[cell.strip() for cell in line.split("|")[1:3]] for line in markdown.splitlines() if line.startswith("|")]
    assert ["a", r"**0.900 \[0.880, 0.920\]**"] in cells and ["b", r"0.800 \[0.780, 0.820\]"] in cells
    latex = (tmp_path / "report" / "tables.tex").read_text(encoding="utf-8")
    assert r"a & \textbf{0.900 [0.880, 0.920]} & \textbf{0.900 [0.880, 0.920]} \\" in latex.splitlines()
    assert r"c & failed & failed \\" in latex.splitlines()


def test_hostile_names_change_nothing(tmp_path: Path) -> None:
    cells = []
    for place, name in enumerate(HOSTILE):
        label = f"{name}{place}" if name[0] != "_" else name
        options = {"kind": name, "category": name}
        for sigma in (0.1, 0.2):
            some = {**options, "options": {"sigma": sigma, "name": name}}
            cells += [
                clean(f"{label} {sigma}", 0.9, **some),
                attacked(f"{label} {sigma}", 0.5, attack=name, figures={"note": name}, **some),
            ]
        cells.append(failed(clean(label, 0.9, category=name), name))
    folder = make_bench(tmp_path / "out", cells, name=HOSTILE[0], grid=HOSTILE[1])
    paths = bench_report(folder, tmp_path / "report")
    assert [path.name for path in paths] == FILES
    source = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    page = Page(source)
    assert page.all("script") == page.all("b") == []
    assert page.all("img") == page.plots()
    assert HOSTILE[0] in page.text and HOSTILE[1] in page.text and "{{ 7 * 7 }}" in page.text
    check_latex((tmp_path / "report" / "tables.tex").read_text(encoding="utf-8"))
    for line in (tmp_path / "report" / "tables.md").read_text(encoding="utf-8").splitlines():
        assert not re.search(r"(?<!\\)<", line)
    for block in re.findall(r"(?:^\|.*\n)+", (tmp_path / "report" / "tables.md").read_text(encoding="utf-8"), re.M):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def check_latex(source: str) -> None:
    """Check what can be checked without TeX: special characters occur only in advrad's own commands, rows have the
    table's number of columns, and groups and environments are closed."""
    source = "".join(line for line in source.splitlines(True) if not line.startswith("%"))
    commands = set(re.findall(r"\\([a-zA-Z]+)", source))
    assert commands <= COMMANDS, commands - COMMANDS
    bare = re.sub(r"\\[a-zA-Z]+|\\[{}&%$#_^\\]", "", source)
    assert bare.count("{") == bare.count("}")
    assert not re.search(r"[#_~^]", bare.replace("^", "", source.count(r"^\dagger")))
    assert bare.count("%") == source.count("{%\n")
    assert bare.count("$") == 2 * (source.count(r"$\pm$") + source.count(r"$^\dagger$"))
    assert source.count(r"\begin{table}") == source.count(r"\end{table}") > 0
    for columns, body in re.findall(r"\\begin\{tabular\}\{l(r+)\}(.*?)\\end\{tabular\}", source, re.DOTALL):
        rows = [line for line in body.splitlines() if line.endswith(r" \\")]
        assert rows
        for row in rows:
            assert len(re.findall(r"(?<!\\)&", row)) == len(columns)
            assert not row.strip().startswith(("[", "*"))
    assert all(letter.isascii() or ord(letter) < 0x180 for letter in source)
    labels = re.findall(r"\\label\{(.*?)\}", source)
    assert len(labels) == len(set(labels))


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("a_b & 50% #1 $x$", r"a\_b \& 50\% \#1 \$x\$"),
        ("\\ {x} ~ ^", r"\textbackslash{} \{x\} \textasciitilde{} \^{}"),
        ("a<b>c|d", r"a\ensuremath{<}b\ensuremath{>}c|d"),
        ("--- a-b", "-{}-{}- a-b"),
        ("[x] [y]", "{}[x] [y]"),
        ("*x", "{}*x"),
        ("0.9 ± 0.1 †", r"0.9 $\pm$ 0.1 $^\dagger$"),
        ("two\nlines\x00", "two lines"),
        ("é \u4e2d", "é (U+4E2D)"),
    ],
)
def test_latex_is_escaped(text: str, latex: str) -> None:
    assert escape_latex(text) == latex


def test_markdown_is_escaped() -> None:
    assert escape_markdown("a|b *c* _d_ [e](f) <g> `h` \\ $i$\n# j") == (
        r"a\|b \*c\* \_d\_ \[e\](f) \<g\> \`h\` \\ \$i\$ \# j"
    )


def test_the_csv_gives_back_every_cell(tmp_path: Path) -> None:
    cells = everything()
    cells[0]["figures"]["image_auroc"] = 0.1 + 0.2 * 3  # a number of many digits
    cells[1] |= {"error": None, "options": {"sigma": 0.1, "name": 'a,"b"\nc'}}
    folder = make_bench(tmp_path / "out", cells)
    bench_report(folder, tmp_path / "report")
    with (tmp_path / "report" / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["key"] for row in rows] == [values["key"] for values in cells]
    for row, values in zip(rows, cells, strict=True):
        assert None not in row and None not in row.values()
        assert row["status"] == values.get("status", "missing")
        for name in ("detector", "kind", "category", "attack", "certificate"):
            assert row[name] == (values[name] or "")
        for name, value in values.get("figures", {}).items():
            if name.endswith("_ci"):
                assert [float(row[f"{name}_low"]), float(row[f"{name}_high"])] == value
            elif name == "certified_auroc":
                assert {radius: float(row[f"certified_auroc {radius}"]) for radius in value} == value
            elif name != "flags":
                assert row[name] == str(value)
        if "status" in values:
            assert json.loads(row["options"]) == values["options"]
            assert json.loads(row["versions"]) == values["versions"]
            assert float(row["seconds"]) == values["seconds"]
            assert row["machine"] == "Processor A, 2 cores, 7.5 GiB"
    assert rows[0]["image_auroc"] == "0.7000000000000001"
    assert [row["distrusted"] for row in rows if row["distrusted"]] == ["flat: no gradient"]
    assert [row["error"] for row in rows if row["error"]] == ["ValueError: images <of> $nothing_"]


def warnings_of(folder: Path, cells: list[dict[str, Any]]) -> list[str]:
    bench_report(make_bench(folder / "out", cells), folder / "report")
    text = (folder / "report" / "tables.md").read_text(encoding="utf-8").replace("\\", "")
    return re.findall(r"\*\*Warning.\*\* (.*)", text)


def test_nothing_is_warned_of_where_all_is_well(tmp_path: Path) -> None:
    assert (
        warnings_of(tmp_path, [clean("a", 0.9), clean("b", 0.9, versions={"torch": "2.14.1", "anomalib": "2.7"})]) == []
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"code": "beef"},
            "The cells come from 2 versions of advrad's code: figures may differ for that reason alone.",
        ),
        ({"machine": MACHINE | {"gpu": "H100"}}, "The cells come from 2 machines: do not compare their times."),
        ({"versions": {"torch": "2.4"}}, "The cells come from 2 versions of torch: see Origin."),
    ],
)
def test_mixed_origins_are_warned_of(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    assert warnings_of(tmp_path, [clean("a", 0.9), clean("b", 0.9, **change)]) == [words]
    page = Page((tmp_path / "report" / "index.html").read_text(encoding="utf-8"))
    assert words in page.text


def test_results_of_another_grid_are_counted_and_said(tmp_path: Path) -> None:
    folder = make_bench(tmp_path / "out", [clean("a", 0.9)])
    write(folder / "cells" / "stranger.json", clean("zebra", 0.123))
    bench_report(folder, tmp_path / "report")
    text = Page((tmp_path / "report" / "index.html").read_text(encoding="utf-8")).text
    assert "1 results in cells/ belong to no cell of this grid" in text
    assert "zebra" not in text


def test_without_families_no_old_drawing_is_left(tmp_path: Path) -> None:
    bench_report(make_bench(tmp_path / "one", everything()), tmp_path / "report")
    paths = bench_report(make_bench(tmp_path / "two", [clean("a", 0.9)]), tmp_path / "report")
    assert [path.name for path in paths] == FILES[:-1]
    assert not (tmp_path / "report" / "dilemma.png").exists()


def test_many_attacks_and_no_attack_can_be_drawn(tmp_path: Path) -> None:
    common = {"kind": "paper"}
    many = [clean(f"d{s}", 0.9, options={"sigma": s}, **common) for s in (0.1, 0.2)]
    bench_report(make_bench(tmp_path / "none", many), tmp_path / "report")
    many += [
        attacked(f"d{s}", 0.4, attack=f"attack {n}", options={"sigma": s}, **common)
        for s in (0.1, 0.2)
        for n in range(7)
    ]
    many = [*many[:-1], missing(many[-1])]
    assert len(bench_report(make_bench(tmp_path / "many", many), tmp_path / "report")) == 5


def test_a_folder_that_is_no_bench_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no"):
        bench_report(tmp_path, tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_an_output_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    folder = make_bench(tmp_path / "out", [clean("a", 0.9)])
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(OutputError, match="file: is a file; name a folder"):
        bench_report(folder, tmp_path / "file")
    bench_report(folder, tmp_path / "report")
    (tmp_path / "report" / "tables.md").unlink()
    (tmp_path / "report" / "tables.md").mkdir()
    with pytest.raises(OutputError, match=r"tables\.md: cannot be written: a folder of this name is in the way"):
        bench_report(folder, tmp_path / "report")


def test_an_interrupt_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_bench(tmp_path / "out", [clean("a", 0.9)])
    bench_report(folder, tmp_path / "report")
    before = {path: path.read_bytes() for path in (tmp_path / "report").iterdir()}

    def stopped(*_: object, **__: object) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(benchreport, "latex", stopped)
    with pytest.raises(KeyboardInterrupt):
        bench_report(folder, tmp_path / "report")
    assert {path: path.read_bytes() for path in (tmp_path / "report").iterdir()} == before
