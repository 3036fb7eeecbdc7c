"""The function ``advrad.attack`` and the results that it returns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from broken_detectors import honest, labelled_images
from golden_model import write_images, write_model
from torch import Tensor
from toy_models import detector

import advrad
from advrad.attacks.curve import run_curve
from advrad.attacks.options import AttackOptions
from advrad.attacks.pipeline import prepare, run_checks
from advrad.attacks.results import AttackResult
from advrad.data.options import DataOptions
from advrad.detectors.base import AnomalyDetector, DetectorOutput, SurrogateLoss
from advrad.detectors.loading import load_target, to_loaded
from advrad.errors import ConfigError, DataError, OutputError
from advrad.utils.precision import Precision
from advrad.utils.progress import CallbackReporter


def labelled(count: int = 6) -> tuple[Tensor, list[int]]:
    given = labelled_images(count)
    return given.images, given.labels.tolist()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("attack") / "data")


def test_tensors_with_labels_are_attacked_without_a_folder() -> None:
    calls: list[tuple[int, int]] = []
    result = advrad.attack(
        honest(), labelled(), attack="pgd", eps=0.2, steps=5, progress=CallbackReporter(lambda *n: calls.append(n))
    )
    assert isinstance(result, AttackResult) and calls[-1] == (6, 6)
    assert result.folder is None and (result.n_normal, result.n_anomalous) == (3, 3)
    assert result.robust_auroc is not None and result.clean_auroc is not None
    assert result.robust_auroc < result.clean_auroc and result.eps == 0.2
    assert [row.label for row in result.rows] == [0, 1, 0, 1, 0, 1]
    assert result.clean_pixel_auroc is None, "tensors come without masks"


def test_a_function_needs_no_wrapping() -> None:
    result = advrad.attack(lambda images: images.mean((1, 2, 3)), labelled(), norm="l2", eps="1/2", limit=4)
    assert (result.attack, result.budget, result.suite_version) == ("suite", "quick", 3)
    assert (result.norm, result.eps) == ("l2", 0.5)
    assert len(result.rows) == 4 and set(result.found_by) == set(result.attacks)


def test_a_radius_may_be_a_number_or_a_fraction() -> None:
    first, second = (
        advrad.attack(honest(), labelled(), attack="pgd", steps=2, eps=eps).to_dict() for eps in (2 / 255, "2/255")
    )
    for values in (first, second):
        values.pop("seconds")
    assert first == second


def test_the_result_is_stored_as_it_is_returned(tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = advrad.attack(honest(), labelled(), attack="apgd", steps=3, output=out)
    assert result.folder == out
    assert json.loads((out / "result.json").read_text()) == result.to_dict()
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows] == [row.name for row in result.rows]
    result.save(tmp_path / "copy")
    for name in ("result.json", "rows.jsonl"):
        assert (tmp_path / "copy" / name).read_bytes() == (out / name).read_bytes()
    again = advrad.attack(honest(), labelled(), attack="apgd", steps=3, output=out)
    assert again.rows == result.rows, "finished images are kept"
    with pytest.raises(OutputError, match="holds a run with other detector"):
        advrad.attack(honest(3), labelled(), attack="apgd", steps=3, output=out)


def test_the_json_names_are_those_of_older_releases() -> None:
    values = advrad.attack(honest(), labelled(), attack="patch", steps=2).to_dict()
    first = ["attack", "note", "norm", "eps", "noise", "seed", "arithmetic", "n_good", "n_defect", "clean_auroc"]
    assert list(values)[: len(first)] == first
    assert list(values)[-5:] == ["members", "flags", "category", "folder", "versions"]
    assert isinstance(values["robust_auroc_ci"], list)


def test_a_result_shows_its_main_figures() -> None:
    result = advrad.attack(honest(), labelled(), attack="pgd", steps=2, eps=0.0)
    assert repr(result).startswith("AttackResult(attack='pgd', norm='linf', eps=0, clean_auroc=")
    assert repr(result).endswith("n_normal=3, n_anomalous=3, flags=[])")


def test_our_model_is_attacked_with_its_surrogate_losses(data: Path) -> None:
    result = advrad.attack(detector(), data, limit=2, options=DataOptions(category=None), gradients="float32")
    assert result.attacks[0] == "pgd, in turn, 40 steps" and result.category == "data"
    assert result.gradient_precision == "float32"


def test_a_model_folder_holds_its_results(tmp_path: Path, data: Path) -> None:
    folder = write_model(tmp_path / "model")
    result = advrad.attack(load_target(str(folder), "cpu"), data, attack="pgd", steps=1, limit=2)
    assert result.folder is not None and result.folder.parent == folder / "attacks"
    assert result.folder.name.startswith("pgd-linf-0.00784")
    by_name = run_curve(
        prepare(load_target(str(folder), "cpu"), data, AttackOptions(attack="pgd", steps=1, limit=2)),
        AttackOptions(attack="pgd", steps=1, limit=2),
        "eps",
        ["2/255"],
    )
    assert by_name.points[0].result.robust_auroc == result.robust_auroc


def test_models_of_other_weights_are_other_detectors() -> None:
    first, again = detector(), detector()
    assert to_loaded(first).identity == to_loaded(again).identity
    with torch.no_grad():
        next(again.parameters()).add_(1.0)
    assert to_loaded(first).identity != to_loaded(again).identity


def test_saved_images_need_a_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="save_images: needs an output folder"):
        advrad.attack(honest(), labelled(), save_images=True)
    advrad.attack(honest(), labelled(), attack="pgd", steps=1, save_images=True, output=tmp_path)
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 6


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"attack": "nuke"}, "attack nuke: is unknown; choose pgd"),
        ({"norm": "l1"}, "norm l1: is unknown; choose linf or l2"),
        ({"eps": -1.0}, "eps -1.0: must be between 0 and 1"),
        ({"budget": "endless"}, "budget endless: is unknown"),
        ({"attack": "pgd", "surrogate": "fog"}, "surrogate fog: is unknown here"),
        ({"attack": "pgd", "steps": -1}, "steps -1"),
        ({"attack": "transfer"}, "source: is needed"),
        ({"gradients": "bfloat16"}, "gradients bfloat16: only AdvRAD detectors offer it"),
    ],
)
def test_options_that_do_not_fit_are_named(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        advrad.attack(honest(), labelled(), **options)  # type: ignore[arg-type]


def test_images_of_another_size_are_refused() -> None:
    images, labels = labelled()
    with pytest.raises(DataError, match="the detector takes 16 x 16 px"):
        advrad.attack(honest(), (images.repeat(1, 1, 2, 2), labels))


def test_a_transfer_attack_follows_another_detector() -> None:
    moved = advrad.attack(honest(0), labelled(), attack="transfer", steps=5, source=honest(3))
    direct = advrad.attack(honest(0), labelled(), attack="pgd", steps=5)
    assert moved.attacks == ("pgd, score, 5 steps, transfer",)
    gained = [sum(abs(row.worst - row.clean) for row in result.rows) for result in (moved, direct)]
    assert gained[0] < gained[1]


class OtherPrecision:
    """A detector of somebody else that offers gradients in another precision."""

    size_px, deterministic, differentiable, threshold, noise_seed = None, True, True, None, None

    def __init__(self, gradient_precision: str = "float32") -> None:
        self.surrogates: dict[str, SurrogateLoss] = {}
        self.gradient_precision = gradient_precision
        self.used: list[str] = []

    def infer(self, images: Tensor, generator: torch.Generator) -> DetectorOutput:
        if images.requires_grad:
            self.used.append(self.gradient_precision)
        return DetectorOutput(images.mean((1, 2, 3)))

    def with_gradient_precision(self, precision: Precision) -> AnomalyDetector:
        other = OtherPrecision("float32" if precision == "auto" else precision)
        other.used = self.used
        return other


def test_any_detector_may_offer_a_precision_of_its_gradients() -> None:
    offering = OtherPrecision()
    rough = advrad.attack(offering, labelled(), attack="pgd", steps=1, gradients="bfloat16")
    assert rough.gradient_precision == rough.to_dict()["arithmetic"] == "bfloat16" and "bfloat16" in offering.used
    offering.used.clear()
    exact = advrad.attack(offering, labelled(), attack="pgd", steps=1)
    assert exact.gradient_precision == "float32" and "bfloat16" not in offering.used


def test_checks_and_curves_are_typed_and_stored(tmp_path: Path) -> None:
    options = AttackOptions(attack="pgd", steps=2)
    job = prepare(to_loaded(honest()), labelled(), options)
    checks = run_checks(job, options, tmp_path / "checks")
    assert checks.n_images == 6 and checks.auroc["clean"] == checks.auroc["eps 0"]
    assert json.loads((tmp_path / "checks" / "checks.json").read_text()) == checks.to_dict()
    curve = run_curve(job, options, "steps", ["1", "3"], tmp_path / "curve")
    assert [point.value for point in curve.points] == [1, 3] and curve.points[1].given == "3"
    curve.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "curve-steps.json").read_text()) == curve.to_dict()
    with pytest.raises(ConfigError, match="values many: must be a whole number above 0"):
        run_curve(job, options, "steps", ["1", "many"], tmp_path / "other")
    assert not (tmp_path / "other").exists(), "nothing was attacked"
