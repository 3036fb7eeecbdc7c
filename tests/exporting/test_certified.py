"""Bounds of an export enclose every score that its graph gives within the radius; nothing else is certified."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import toy_exports
import toy_graphs
from exact_scores import resize_matrix
from toy_graphs import Pixels, as_tensor, pixels

from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.engines import EngineOutput
from advrad.detectors.exported import ExportedDetector
from advrad.detectors.exported_config import ProvenanceRecord, RoundingRecord
from advrad.detectors.loading import LoadedDetector, load_target
from advrad.detectors.tiled import TiledDetector
from advrad.errors import ConfigError
from advrad.exporting.certified import CertifiedExport, certifiable, exact_matrix
from advrad.exporting.graph import DetectorGraph, graph_of
from advrad.exporting.rounding import rounding_of


@dataclass(frozen=True)
class GraphEngine:
    """Computes the graph in PyTorch, with an error that a test may add."""

    graph: DetectorGraph
    error: float = 0.0

    def run(self, image: Pixels) -> EngineOutput:
        with torch.no_grad():
            score, anomaly_map, *_ = self.graph(as_tensor(image))
        found = float(score) + self.error
        return EngineOutput(found, anomaly_map[0].numpy(), found > float(self.graph.threshold[0]))


def export_of(detector: Any) -> ExportedDetector:
    config = toy_exports.config_of(
        calibration=detector.calibration, training=detector.config.training, rounding=rounding_of(detector, "float32")
    )
    record = toy_exports.FramingRecord.of(detector.framing)
    config = config.model_copy(update={"framing_record": record, "image_size_px": detector.image_size_px})
    return ExportedDetector(config, GraphEngine(graph_of(detector)))


def as_image(image: Pixels) -> torch.Tensor:
    """The image as certificates take it, (1, 3, h, w) float."""
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255


@pytest.fixture(scope="module", params=["closed_form", "tiled"])
def proven(request: pytest.FixtureRequest) -> tuple[Any, CertifiedExport]:
    source = toy_graphs.made(request.param)
    assert isinstance(source, ClosedFormDetector | TiledDetector)
    return source, CertifiedExport(export_of(source), source)


@pytest.mark.parametrize("levels", [1, 4])
def test_no_image_of_8_bits_within_the_radius_has_a_score_outside(
    proven: tuple[Any, CertifiedExport], levels: int
) -> None:
    source, export = proven
    image = pixels(45, 61)
    bounds = export.score_bounds(as_image(image), levels / 255, "linf")
    free = as_image(image).requires_grad_()
    (slope,) = torch.autograd.grad(source.infer(free).scores.sum(), free)
    towards = slope[0].sign().permute(1, 2, 0).numpy().astype(int)
    rng = np.random.default_rng(0)
    changes = [0 * towards, towards, -towards, *rng.integers(-1, 2, (4, *towards.shape))]
    found = []
    for change in changes:
        moved = (image.astype(int) + levels * change).clip(0, 255).astype(np.uint8)
        found.append(export.export.run([moved])[0].score)
    assert float(bounds.lower) <= min(found) < max(found) <= float(bounds.upper)
    assert float(bounds.scores) == found[0]
    inner = source.score_bounds(as_image(image), levels / 255, "linf")
    width, own = float(bounds.upper - bounds.lower), float(inner.upper - inner.lower)
    assert own < width < 1.2 * own + 0.02 * own / levels


def test_values_between_levels_cost_half_a_level(proven: tuple[Any, CertifiedExport]) -> None:
    _, export = proven
    image = as_image(pixels(40, 40)).clamp(0.01, 0.99)
    on = (image * 255).round() / 255
    between = on + 0.3 / 255
    exact, rounded = (export.score_bounds(part, 1 / 255, "linf") for part in (on, between))
    assert float(rounded.upper - rounded.lower) > 1.2 * float(exact.upper - exact.lower)


def test_an_image_that_is_scaled_down_too_much_has_no_bounds(proven: tuple[Any, CertifiedExport]) -> None:
    _, export = proven
    bounds = export.score_bounds(as_image(pixels(16, 6000)), 1 / 255, "linf")
    assert bounds.lower.isinf().all() and bounds.upper.isinf().all()


def test_the_l2_radius_is_one_of_the_image_as_given(proven: tuple[Any, CertifiedExport]) -> None:
    _, export = proven
    image = pixels(64, 64)
    bounds = export.score_bounds(as_image(image), 0.5, "l2")
    moved = image.copy()
    moved[30, 30] = np.where(moved[30, 30] > 127, moved[30, 30] - 70, moved[30, 30] + 70)
    assert np.linalg.norm((moved.astype(float) - image) / 255) < 0.5
    assert float(bounds.lower) <= export.export.run([moved])[0].score <= float(bounds.upper)


@pytest.mark.parametrize(("length", "size"), [(100, 32), (9, 24), (4000, 192), (32, 32), (1, 5)])
def test_weights_from_whole_numbers_are_those_of_the_resize(length: int, size: int) -> None:
    np.testing.assert_allclose(exact_matrix(length, size, 1), resize_matrix(length, size), rtol=0, atol=1e-12)


def test_squares_are_averaged_first() -> None:
    matrix = exact_matrix(11, 2, 3)
    np.testing.assert_allclose(matrix.sum(1), 1)
    np.testing.assert_allclose(matrix[:, 0], matrix[:, 2])
    assert matrix[1, 9] == pytest.approx(matrix[1, 10]) and matrix[1, 9] > matrix[1, 8]  # the last one has two rows


def loaded(detector: Any, identity: str) -> LoadedDetector:
    return LoadedDetector(detector, identity, None)


def test_only_the_source_of_the_export_counts() -> None:
    source = toy_graphs.closed_form()
    export = export_of(source)
    provenance = ProvenanceRecord(config_sha256="a" * 64)
    export.config = export.config.model_copy(update={"provenance": provenance})
    joined = certifiable(loaded(export, "export"), loaded(source, "a" * 64))
    assert isinstance(joined.detector, CertifiedExport)
    assert joined.detector.threshold == export.threshold
    with pytest.raises(ConfigError, match=r"is not the model folder that this export was made from"):
        certifiable(loaded(export, "export"), loaded(source, "b" * 64))
    with pytest.raises(ConfigError, match=r"belongs to an export, and this detector is none"):
        certifiable(loaded(source, "a"), loaded(source, "a" * 64))
    words = RoundingRecord(words="Nothing is proven about rounding in int8.")
    export.config = export.config.model_copy(update={"rounding": words})
    with pytest.raises(ConfigError, match=r"rounding in int8. Certify the model folder"):
        certifiable(loaded(export, "export"), loaded(source, "a" * 64))


def test_a_graph_that_breaks_the_proof_is_reported(proven: tuple[Any, CertifiedExport]) -> None:
    source, export = proven
    wrong = GraphEngine(graph_of(source), error=0.5)
    bounds = CertifiedExport(ExportedDetector(export.config, wrong), source).score_bounds(
        as_image(pixels(32, 32)), 0, "linf"
    )
    assert float(bounds.scores) > float(bounds.upper)


def write_export(folder: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write an export of a closed form whose graph PyTorch computes."""
    from advrad.detectors.loading import load_detector

    detector = load_detector(source)
    assert isinstance(detector, ClosedFormDetector)
    monkeypatch.setattr("advrad.detectors.exported.open_engine", lambda *_, **__: GraphEngine(graph_of(detector)))
    config = export_of(detector).config
    return toy_exports.write(
        folder,
        calibration=config.calibration,
        framing_record=config.framing_record,
        image_size_px=config.image_size_px,
        rounding=config.rounding,
        provenance=ProvenanceRecord(config_sha256=load_target(str(source)).identity),
    )


def test_the_command_certifies_an_export_with_its_source(
    cli: Any, closed_form_run: Path, widgets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = write_export(tmp_path / "export", closed_form_run, monkeypatch)
    options = ["--norm", "linf", "--radius", "1/255", "--limit", "2", "--json"]
    done = cli("certify", export, widgets, *options, "--from", closed_form_run, "-o", tmp_path / "own")
    usual = cli("certify", closed_form_run, widgets, *options, "--own-size", "-o", tmp_path / "usual")
    assert done.status == usual.status == 0, done.err + usual.err
    rows, others = (
        [json.loads(line) for line in (tmp_path / name / "rows.jsonl").read_text().splitlines()]
        for name in ("own", "usual")
    )
    for row, other in zip(rows, others, strict=True):
        assert row["lower"][0] < other["lower"][0] <= other["upper"][0] < row["upper"][0]
        assert row["lower"][0] == pytest.approx(other["lower"][0], abs=0.05)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "--from: is needed: the bounds of an export are those of the model folder"),
        (["--from", "RUN", "--size", "64"], "--size 64: an export is certified for images of their own size"),
    ],
)
def test_the_command_says_what_is_missing(
    cli: Any,
    closed_form_run: Path,
    widgets: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    words: str,
) -> None:
    export = write_export(tmp_path / "export", closed_form_run, monkeypatch)
    given = [closed_form_run if option == "RUN" else option for option in options]
    assert words in cli("certify", export, widgets, "--norm", "linf", *given).one_error_line()


def test_the_command_refuses_an_export_of_which_nothing_is_proven(cli: Any, widgets: Path, tmp_path: Path) -> None:
    export = toy_exports.write(tmp_path / "export")
    words = "nothing is proven about a toy Certify the model folder that the export was made from"
    assert words in cli("certify", export, widgets, "--norm", "linf").one_error_line()


def test_a_source_is_for_exports_alone(cli: Any, closed_form_run: Path, widgets: Path) -> None:
    done = cli("certify", closed_form_run, widgets, "--from", closed_form_run)
    assert "--from: belongs to an export; this detector has its own bounds" in done.one_error_line()
