"""The closed form as a model of anomalib: its scores are those of the detector, from every checkpoint and export."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from anomalib_runs import CLOSE, MARKS, datamodule, engine, inferencer, read_tests
from torch import Tensor
from toy_datasets import make_mvtec

import advrad.training.closed_form
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.errors import ConfigError, NotCalibratedError
from advrad.metrics import auroc
from advrad.training.closed_form_plan import MemberPlan

pytestmark = [
    *MARKS,
    pytest.mark.filterwarnings("ignore:.*returned `None`, this fit will run with no optimizer:UserWarning"),
]

OPTIONS = {"size_px": 64, "false_alarm_rate": 0.1}
#: Exports that are translated into graphs, which takes minutes.
GRAPHS = ("onnx", "openvino")
#: Nothing between our score and anomalib's answer.
PLAIN = {"post_processor": False, "evaluator": False}


def module(**changes: Any) -> Any:
    from advrad.integrations.anomalib import AdvRadClosedForm

    return AdvRadClosedForm(**OPTIONS | changes)


@dataclass(frozen=True)
class Fitted:
    """The model after anomalib fitted and tested it.

    Attributes:
        product: Folder of the images.
        module: Model.
        figures: anomalib's metrics.
        checkpoint: File that the engine saved.
        images: Test images, (8, 3, h, w), as in their files.
        labels: Labels of the test images.
        paths: Paths of the test images.
    """

    product: Path
    module: Any
    figures: dict[str, float]
    checkpoint: Path
    images: Tensor
    labels: np.ndarray[Any, np.dtype[np.bool_]]
    paths: list[Path]


@pytest.fixture(autouse=True, scope="module")
def _small() -> Iterator[None]:
    """Two small members in place of those that are chosen."""
    fine = MemberPlan(name="fine", size_px=64, cell_px=4, patch_cells=3)
    coarse = MemberPlan(name="coarse", size_px=64, cell_px=8, patch_cells=3).with_gain()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(advrad.training.closed_form, "choose_plans", lambda *_: ([fine, coarse], []))
        yield


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    product = make_mvtec(tmp_path_factory.mktemp("data"), train=24, good=4, defects={"dent": 4}, size=80)
    folder, model = tmp_path_factory.mktemp("anomalib"), module()
    (figures,) = engine(folder).train(model=model, datamodule=datamodule(product))
    (checkpoint,) = folder.rglob("model.ckpt")
    paths, images = read_tests(product)
    labels = np.array([path.parent.name == "dent" for path in paths])
    return Fitted(product, model, figures, checkpoint, images, labels, paths)


def test_anomalib_measures_the_scores_that_are_ours(fitted: Fitted) -> None:
    scores = fitted.module.detector.predict_batch(fitted.module.pre_processor(fitted.images)).scores.numpy()
    assert fitted.figures["image_AUROC"] == pytest.approx(auroc(fitted.labels, scores), abs=1e-6)
    assert set(fitted.figures) == {"image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score"}
    assert auroc(fitted.labels, scores) > 0.9
    assert fitted.module.detector.calibration.false_alarm_rate == 0.1


def test_the_detector_inside_has_bounds(fitted: Fitted) -> None:
    bounds = fitted.module.detector.score_bounds(fitted.images[:1], 2 / 255, "linf")
    assert float(bounds.lower) < float(bounds.scores) < float(bounds.upper)


def test_checkpoints_hold_plain_values_and_bring_all_back(fitted: Fitted, tmp_path: Path) -> None:
    from advrad.integrations.anomalib import AdvRadClosedForm

    assert torch.load(fitted.checkpoint, weights_only=True)
    again = AdvRadClosedForm.load_from_checkpoint(fitted.checkpoint).eval()
    assert again.detector.config == fitted.module.detector.config
    torch.testing.assert_close(again(fitted.images).pred_score, fitted.module(fitted.images).pred_score)
    given = {"datamodule": datamodule(fitted.product), "ckpt_path": fitted.checkpoint}
    assert engine(tmp_path).test(model=module(), **given) == [pytest.approx(fitted.figures)]


def test_model_folders_go_both_ways(fitted: Fitted, tmp_path: Path) -> None:
    from advrad.integrations.anomalib import AdvRadClosedForm

    fitted.module.detector.save_pretrained(tmp_path / "model")
    usual, images = ClosedFormDetector.from_pretrained(tmp_path / "model"), fitted.images
    expected = fitted.module.detector.predict_batch(images).scores
    assert torch.equal(usual.predict_batch(images).scores, expected)
    back = AdvRadClosedForm.from_folder(tmp_path / "model", **PLAIN)
    assert torch.equal(back.detector.predict_batch(images).scores, expected)


@pytest.mark.parametrize("kind", ["torch", *(pytest.param(kind, marks=pytest.mark.slow) for kind in GRAPHS)])
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True:UserWarning")
def test_exported_graphs_have_our_scores(
    kind: str, fitted: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")  # anomalib's export for PyTorch is a pickle
    model = module(**PLAIN)
    model.model.detector = fitted.module.detector
    file = engine(tmp_path).export(model=model, export_type=kind, export_root=tmp_path)
    scorer = inferencer(kind, file)
    expected = model.model(model.pre_processor(fitted.images))
    # The normal images are almost the same, so 1 unit of score is a small distance: here, float32 rounds 1e-7 of it.
    unit = min(
        float((member.spread + member.config.tolerance).min()) * member.config.scale
        for member in fitted.module.detector.members
    )
    for path, score in zip(fitted.paths, expected.pred_score.tolist(), strict=True):
        answer = scorer.predict(path)
        assert torch.as_tensor(answer.pred_score).item() == pytest.approx(score, rel=CLOSE, abs=1e-7 / unit)
    assert 1e-7 / unit < 0.01
    maps = expected.anomaly_map[-1:]
    torch.testing.assert_close(torch.as_tensor(answer.anomaly_map).view_as(maps), maps, rtol=CLOSE, atol=0.02)


def test_before_it_is_fitted_there_is_nothing_to_score(tmp_path: Path) -> None:
    model = module()
    with pytest.raises(NotCalibratedError, match="has no detector yet; train it"):
        model(torch.rand(1, 3, 64, 64))
    with pytest.raises(NotCalibratedError, match="AdvRadClosedForm has no detector yet; train it"):
        model.detector.save_pretrained(tmp_path)


def test_anomalib_knows_it_by_name_once_imported() -> None:
    from anomalib.models import get_model

    from advrad.integrations.anomalib import AdvRadClosedForm

    model = get_model("adv_rad_closed_form", seed=3)
    assert type(model) is AdvRadClosedForm and model.seed == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size_px": 0}, "size_px 0: must be at least 1"),
        ({"false_alarm_rate": 1.5}, "false_alarm_rate 1.5: must lie between 0 and 1"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        module(**options)
