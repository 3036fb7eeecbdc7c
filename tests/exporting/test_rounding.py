"""The proven bound on the rounding of an export holds for every form of the distances, and is not needlessly wide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import toy_models
from exact_scores import exact_cells, exact_distances, exact_score, working_image
from tiny_closed_forms import detector_of, draws, member_of, memory_like
from torch import Tensor, nn

from advrad.data.framing import Framing
from advrad.denoisers.memory_config import MemoryConfig
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.engines import runtime as import_runtime
from advrad.detectors.views import WholeConfig, WholeView
from advrad.exporting.framing_graph import FramingGraph
from advrad.exporting.rounding import MemberRounding, member_roundings, rounding_of, shrinking_of

Pixels = npt.NDArray[np.uint8]
#: Distance that an image may change by, in a usual certificate.
RADIUS = 2 / 255


@pytest.fixture
def _as_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compute in PyTorch what a graph computes."""
    monkeypatch.setattr("torch.onnx._internal.exporter._flags._is_onnx_exporting", True)


@dataclass(frozen=True)
class Case:
    """A detector of random settings, and an image."""

    detector: ClosedFormDetector
    pixels: Pixels

    @property
    def rounding(self) -> MemberRounding:
        (found,) = member_roundings(self.detector, shrinking_of(self.detector.framing, *self.pixels.shape[:2]))
        return found

    def distances(self) -> Tensor:
        """Exact distances, (1, 1, down, across)."""
        member = member_of(self.detector)
        assert isinstance(member.view.config, WholeConfig)
        cells = exact_cells(member.view.config, working_image(self.detector.framing, self.pixels))
        return torch.from_numpy(exact_distances(member, cells))[None, None]

    def interval(self) -> tuple[float, float]:
        """Where the score of a graph may lie."""
        member, found, distances = member_of(self.detector), self.rounding, self.distances()
        low, high = (
            float(member.pooled(member.standardise(ends))) for ends in (found.lower(distances), found.upper(distances))
        )
        return low - found.pooled, high + found.pooled


def case_of(seed: int, *, any_size: bool = True) -> Case:
    """Draw a detector and an image: black, white, one that the memory holds, or noise."""
    rng = np.random.default_rng(seed)
    cell, side, channels = int(rng.choice([1, 2, 4])), int(rng.choice([6, 7])), int(rng.choice([1, 3]))
    size = side * cell
    window = [(1, 1), (2, 0), None][rng.integers(3)]
    memory = MemoryConfig(
        height_cells=side,
        width_cells=side,
        channels=channels,
        patch_cells=int(rng.choice([1, 3, 5])),
        window_cells=window,
        stride_cells=1,
        gain=float(rng.choice([0, 0.15, 0.5])),
        chosen_patches=None if window is None else [None, 3][rng.integers(2)],
        taper=str(rng.choice(["flat", "gaussian"])),
    )
    level, contrast = [(0.0, 1.0), (0.0, 0.0), (0.0, 0.01), (0.95, 0.05)][rng.integers(4)]
    base = torch.from_numpy(level + contrast * rng.uniform(size=(channels, side, side)))
    sheets = memory_like(memory, base, 3, float(rng.choice([0, 0.01, 0.3])), draws(seed))
    view = WholeView(WholeConfig(size_px=size, cell_px=cell, channels=channels))
    pooling = float(rng.choice([0, 0.1, 1]))
    detector = detector_of(view, memory, sheets, pooling=pooling, generator=draws(seed))
    kind = int(rng.integers(4))
    own = size if kind == 1 or not any_size else int(rng.choice([size, 20]))
    detector.update_config(image_size_px=own, pad=bool(rng.integers(2)))
    pixels = rng.integers(0, 256, (*rng.integers(16, 70, 2), 3), dtype=np.uint8)
    if kind == 0:
        pixels[:] = 255 * rng.integers(0, 2)
    elif kind == 1:  # an image that the memory holds
        pixels = sheets[0].numpy().transpose(1, 2, 0).repeat(3 // channels, 2).repeat(cell, 0).repeat(cell, 1)
    return Case(detector, pixels)


def graph_score(case: Case) -> float:
    with torch.no_grad():
        working = FramingGraph(case.detector.framing)(torch.from_numpy(case.pixels)[None])
        return float(case.detector.infer(working).scores)


@pytest.mark.usefixtures("_as_graphs")
@pytest.mark.parametrize("seed", range(48))
def test_the_score_of_a_graph_is_within_the_bound(seed: int) -> None:
    case = case_of(seed)
    exact, found = exact_score(case.detector, case.pixels), graph_score(case)
    low, high = case.interval()
    assert low <= exact <= high
    assert low <= found <= high
    assert abs(found - exact) <= case.rounding.largest(exact) <= case.rounding.largest()


@pytest.mark.parametrize("gain", [0.0, 0.15])
def test_where_thresholds_lie_the_bound_is_a_small_part_of_a_radius(gain: float) -> None:
    memory = MemoryConfig(height_cells=16, width_cells=16, window_cells=(1, 1), gain=gain)
    sheets = memory_like(memory, torch.full((3, 16, 16), 0.5), 4, 0.05, draws(0))
    view = WholeView(WholeConfig(size_px=64, cell_px=4))
    (found,) = member_roundings(detector_of(view, memory, sheets, generator=draws(0)), 4)
    usual = torch.full((1, 1, 10, 10), 0.1, dtype=torch.float64)
    assert float((usual - found.lower(usual)).max()) < 0.03 * RADIUS
    assert float((found.upper(usual) - usual).max()) < 0.03 * RADIUS


@pytest.mark.parametrize("seed", range(8))
def test_bounds_enclose_and_increase_and_the_largest_difference_is_the_largest(seed: int) -> None:
    found = case_of(seed).rounding
    steps = torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None, None, None] * torch.ones_like(found.size)
    low, high = found.lower(steps), found.upper(steps)
    assert (low <= steps).all() and (steps <= high).all()
    assert (low.diff(dim=0) >= 0).all() and (high.diff(dim=0) >= 0).all()
    differences = torch.maximum(steps - low, high - steps) / found.divisor
    largest = found.largest() - found.pooled
    assert float(differences.max()) <= largest + 1e-9
    assert largest <= float(differences.max()) * 1.2 + 1e-6


@pytest.mark.parametrize(
    ("framing", "height", "width"),
    [
        (Framing.square(32), 100, 37),
        (Framing.square(24), 9, 200),
        (Framing.square(48, pad=True), 90, 70),
        (Framing.square(200), 256, 255),
    ],
)
def test_working_images_of_the_graph_are_exact_but_for_rounding(framing: Framing, height: int, width: int) -> None:
    """A step from black to white shows every error of the weights."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    pixels[height // 3 :, : width // 2] = 255
    found = FramingGraph(framing)(torch.from_numpy(pixels)[None])[0].permute(1, 2, 0).double().numpy()
    np.testing.assert_allclose(found, working_image(framing, pixels), rtol=0, atol=1e-6)


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_nothing_is_claimed_for_less_than_float32(precision: Any) -> None:
    record = rounding_of(case_of(0).detector, precision)
    assert record.bound is None
    assert precision in record.words and "of the PyTorch detector only" in record.words


def test_nothing_is_claimed_for_learned_detectors() -> None:
    record = rounding_of(toy_models.detector(), "float32")
    assert record.bound is None and "a learned denoiser" in record.words


def test_the_words_name_both_bounds() -> None:
    detector = case_of(3).detector
    record = rounding_of(detector, "float32")
    assert record.bound is not None and f"{record.bound:.2g}" in record.words


class _All(nn.Module):
    """The scores of several detectors for one image."""

    def __init__(self, detectors: list[ClosedFormDetector]) -> None:
        super().__init__()
        self.framing = FramingGraph(detectors[0].framing)
        self.detectors = nn.ModuleList(detectors)

    def forward(self, image: Tensor) -> Tensor:
        working = self.framing(image)
        return torch.cat([detector.infer(working).scores for detector in self.detectors])  # type: ignore[operator]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[Case], Path]]:
    """Detectors of many settings as one ONNX graph, with 28 px for all."""
    cases = [case_of(seed, any_size=False) for seed in range(24)]
    cases = [case for case in cases if case.detector.config.image_size_px == 28 and not case.detector.config.pad][:4]
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    image = torch.zeros(1, 40, 50, 3, dtype=torch.uint8)
    sides = {1: torch.export.Dim("height", min=16, max=4000), 2: torch.export.Dim("width", min=16, max=4000)}
    program = torch.onnx.export(
        _All([case.detector for case in cases]).eval(), (image,), dynamo=True, dynamic_shapes=(sides,), verbose=False
    )
    assert program is not None
    program.save(path)
    yield cases, path


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.filterwarnings("ignore")
def test_both_runtimes_are_within_the_bound(exported: tuple[list[Case], Path], runtime: str) -> None:
    cases, path = exported
    assert len(cases) >= 3
    if runtime == "openvino":
        openvino = import_runtime("openvino")
        hints = {"INFERENCE_PRECISION_HINT": openvino.Type.f32, "EXECUTION_MODE_HINT": "ACCURACY"}
        compiled = openvino.Core().compile_model(path, "CPU", hints)

        def scores(pixels: Pixels) -> list[float]:
            return [float(score) for score in compiled([pixels[None]])[0]]
    else:
        session = import_runtime("onnxruntime").InferenceSession(str(path))

        def scores(pixels: Pixels) -> list[float]:
            return [float(score) for score in session.run(None, {session.get_inputs()[0].name: pixels[None]})[0]]

    ratios = []
    for shown in cases:
        for case, found in zip(cases, scores(shown.pixels), strict=True):
            own = Case(case.detector, shown.pixels)
            low, high = own.interval()
            exact = exact_score(case.detector, shown.pixels)
            assert low <= found <= high
            ratios.append(abs(found - exact) / max(high - exact, exact - low))
    assert 0 < max(ratios) <= 1
