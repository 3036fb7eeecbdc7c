"""AdvRAD as a model of anomalib: the checks of anomalib's own tests, and that its scores are AdvRAD's."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trained_run
from anomalib_runs import CLOSE, MARKS, datamodule, engine, inferencer, read_tests
from torch import Tensor
from toy_datasets import make_mvtec

from advrad.detectors.advrad import AdvRAD
from advrad.errors import CheckpointError, ConfigError, DataError, NotCalibratedError
from advrad.metrics import auroc
from advrad.training.options import RunOptions
from advrad.training.run import train

pytestmark = MARKS

SIZE_PX = trained_run.SIZE_PX
#: Of the images: they are resized, in training and in exported graphs.
FILE_PX = 80
OPTIONS = {"steps": 6, "size_px": SIZE_PX, "batch_size": 4, "false_alarm_rate": 0.2, "precision": "float32"}
#: Nothing between our score and anomalib's answer.
PLAIN = {"score": "paper", "post_processor": False, "evaluator": False}


@pytest.fixture(autouse=True, scope="module")
def _small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        trained_run.shrink(patch)
        yield


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_mvtec(tmp_path_factory.mktemp("data"), train=24, good=4, defects={"dent": 4}, size=FILE_PX)


def module(**changes: Any) -> Any:
    from advrad.integrations.anomalib import AdvRad

    return AdvRad(**OPTIONS | changes)


@dataclass(frozen=True)
class TrainedModel:
    """The model after anomalib trained and tested it.

    Attributes:
        product: folder of the images.
        module: the model.
        figures: anomalib's metrics.
        checkpoint: what the engine saved.
        images: (8, 3, h, w), the test images as in their files.
        paths: of the test images.
    """

    product: Path
    module: Any
    figures: dict[str, float]
    checkpoint: Path
    images: Tensor
    paths: list[Path]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, product: Path) -> TrainedModel:
    folder, model = tmp_path_factory.mktemp("anomalib"), module()
    (figures,) = engine(folder).train(model=model, datamodule=datamodule(product))
    (checkpoint,) = folder.rglob("model.ckpt")
    paths, images = read_tests(product)
    return TrainedModel(product, model, figures, checkpoint, images, paths)


@dataclass(frozen=True)
class Plain:
    """The same with a simple score, which anomalib neither normalises nor clamps.

    Attributes:
        detector: inside.
        checkpoint: what the engine saved.
        scores: of the test images.
    """

    detector: AdvRAD
    checkpoint: Path
    scores: dict[Path, float]


def plainly(trained: TrainedModel, folder: Path, **changes: Any) -> Plain:
    model = module(**PLAIN | changes)
    engine(folder).fit(model=model, datamodule=datamodule(trained.product))
    (checkpoint,) = folder.rglob("model.ckpt")
    scores = model.detector.predict_batch(trained.images)[0].tolist()
    return Plain(model.detector, checkpoint, dict(zip(trained.paths, scores, strict=True)))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, trained: TrainedModel) -> Plain:
    return plainly(trained, tmp_path_factory.mktemp("plain"))


# --- training and metrics ---


def test_it_learns_what_advrad_train_learns(trained: TrainedModel, tmp_path: Path) -> None:
    usual = train(trained.product, tmp_path / "run", RunOptions(**OPTIONS, denoiser="lean"))
    detector = trained.module.detector
    assert detector.detector_config.score == usual.detector_config.score
    assert detector.calibration.n == usual.calibration.n
    # Up to rounding of the resized images and its effect on the training.
    assert detector.calibration.threshold == pytest.approx(usual.calibration.threshold, rel=1e-3)
    for name, tensor in usual.state_dict().items():
        torch.testing.assert_close(detector.state_dict()[name], tensor, rtol=1e-2, atol=1e-3)
    assert detector.detector_config.training.to_dict()["plan"]["layout"] == "datamodule"


def test_anomalib_measures_the_scores_that_are_ours(trained: TrainedModel) -> None:
    labels = np.array([path.parent.name == "dent" for path in trained.paths])
    scores = trained.module.detector.predict_batch(trained.images)[0].numpy()
    assert trained.figures["image_AUROC"] == pytest.approx(auroc(labels, scores), abs=1e-6)
    assert set(trained.figures) == {"image_AUROC", "image_F1Score", "pixel_AUROC", "pixel_F1Score"}


def test_the_graph_scores_a_batch_as_the_detector_scores_each_image(trained: TrainedModel) -> None:
    images = trained.module.pre_processor(trained.images)
    together = trained.module.model(images)
    scores, maps, _ = trained.module.detector.predict_batch(trained.images)
    torch.testing.assert_close(together.pred_score, scores, rtol=CLOSE, atol=CLOSE)
    torch.testing.assert_close(together.anomaly_map, maps, rtol=CLOSE, atol=CLOSE)


def test_more_batches_than_steps_and_more_steps_than_batches(product: Path, tmp_path: Path) -> None:
    weights = []
    for size in (2, 24):
        model = module(steps=3)
        engine(tmp_path).fit(model=model, datamodule=datamodule(product, train_batch_size=size))
        weights.append(model.detector.state_dict())
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name])


# --- the engine, from a checkpoint ---


def test_test_validate_and_train_take_the_checkpoint(trained: TrainedModel, tmp_path: Path) -> None:
    data = datamodule(trained.product)
    given = {"datamodule": data, "ckpt_path": trained.checkpoint}
    assert engine(tmp_path).test(model=module(), **given) == [trained.figures]
    assert len(engine(tmp_path).validate(model=module(), **given)) == 1
    # A finished training is not repeated, and its weights stay.
    again = module()
    assert engine(tmp_path / "again").train(model=again, **given) == [trained.figures]
    for name, tensor in trained.module.detector.state_dict().items():
        assert torch.equal(again.detector.state_dict()[name], tensor)


@pytest.mark.parametrize("entrance", ["folder", "file", "dataset", "dataloader", "datamodule"])
def test_predictions_are_the_same_by_every_entrance(
    entrance: str, trained: TrainedModel, plain: Plain, tmp_path: Path
) -> None:
    from anomalib.data import PredictDataset
    from torch.utils.data import DataLoader

    folder, dataset = trained.product / "test" / "dent", PredictDataset(trained.product / "test" / "dent")
    given, count = {
        "folder": ({"data_path": folder}, 4),
        "file": ({"data_path": trained.paths[0]}, 1),
        "dataset": ({"dataset": dataset}, 4),
        "dataloader": ({"dataloaders": DataLoader(dataset, 3, collate_fn=dataset.collate_fn)}, 4),
        "datamodule": ({"datamodule": datamodule(trained.product)}, 4),  # it validates on the other half
    }[entrance]
    batches = engine(tmp_path).predict(
        model=module(**PLAIN), ckpt_path=plain.checkpoint, return_predictions=True, **given
    )
    found = {Path(path): float(s) for b in batches for path, s in zip(b.image_path, b.pred_score, strict=True)}
    assert len(found) == count
    assert found == pytest.approx({path: plain.scores[path] for path in found}, rel=CLOSE, abs=CLOSE)


def test_predictions_need_not_be_returned(trained: TrainedModel, tmp_path: Path) -> None:
    given = {"datamodule": datamodule(trained.product), "ckpt_path": trained.checkpoint}
    assert engine(tmp_path).predict(model=module(), return_predictions=False, **given) is None


# --- checkpoints ---


def test_a_checkpoint_holds_plain_values_and_brings_all_back(trained: TrainedModel, plain: Plain) -> None:
    from advrad.integrations.anomalib import AdvRad

    assert torch.load(trained.checkpoint, weights_only=True)
    again = AdvRad.load_from_checkpoint(trained.checkpoint).eval()
    assert again.detector.detector_config == trained.module.detector.detector_config
    torch.testing.assert_close(again(trained.images).pred_score, trained.module(trained.images).pred_score)
    bare = AdvRad.load_from_checkpoint(plain.checkpoint).eval()
    assert bare.post_processor is None
    assert bare(trained.images).pred_score.tolist() == pytest.approx(list(plain.scores.values()), rel=CLOSE, abs=CLOSE)


@pytest.mark.parametrize(
    ("damage", "error", "words"),
    [
        (lambda saved: saved["state_dict"].pop("model.detector.mean_0"), CheckpointError, "do not belong together"),
        (lambda saved: saved["advrad_detector"].update(scales=[1.0, 2.0]), CheckpointError, "do not match the score"),
        (lambda saved: saved["advrad_detector"].update(colour=1), ConfigError, "colour"),
    ],
)
def test_a_damaged_checkpoint_is_refused(
    damage: Any, error: type[Exception], words: str, trained: TrainedModel, tmp_path: Path
) -> None:
    from advrad.integrations.anomalib import AdvRad

    saved = torch.load(trained.checkpoint, weights_only=True)
    damage(saved)
    torch.save(saved, tmp_path / "damaged.ckpt")
    with pytest.raises(error, match=f"checkpoint.*{words}"):
        AdvRad.load_from_checkpoint(tmp_path / "damaged.ckpt")


def test_model_folders_go_both_ways(trained: TrainedModel, tmp_path: Path) -> None:
    from advrad.integrations.anomalib import AdvRad

    trained.module.detector.save_pretrained(tmp_path / "model")
    usual = AdvRAD.from_pretrained(tmp_path / "model")
    assert torch.equal(usual.predict_batch(trained.images)[0], trained.module.detector.predict_batch(trained.images)[0])
    back = AdvRad.from_folder(tmp_path / "model")
    given = {"model": back, "datamodule": datamodule(trained.product)}
    engine(tmp_path).validate(**given)  # sets anomalib's threshold
    assert engine(tmp_path).test(**given) == [pytest.approx(trained.figures)]


# --- exports ---


@pytest.mark.parametrize(
    ("kind", "preset", "side"),
    [("torch", "lean", None), ("openvino", "lean", None), ("onnx", "tiny", FILE_PX)],
    ids=["torch", "openvino", "onnx"],
)
@pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True:UserWarning")
def test_exported_graphs_have_our_scores(
    kind: str, preset: str, side: int | None, trained: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRUST_REMOTE_CODE", "1")  # anomalib's export for PyTorch is a pickle
    plain = plainly(trained, tmp_path, **{} if preset == "lean" else {"preset": preset, "size_px": 32, "steps": 2})
    assert (plain.detector.detector_config.denoiser.kind == "lean") is (preset == "lean")
    given = {"export_root": tmp_path, "input_size": side and (side, side), "ckpt_path": plain.checkpoint}
    file = engine(tmp_path / "export").export(model=module(), export_type=kind, **given)
    scorer = inferencer(kind, file)
    for path, score in plain.scores.items():
        answer = scorer.predict(path)
        assert torch.as_tensor(answer.pred_score).item() == pytest.approx(score, rel=CLOSE, abs=CLOSE)
    maps = plain.detector.predict_batch(trained.images[-1:])[1]
    torch.testing.assert_close(torch.as_tensor(answer.anomaly_map).view_as(maps), maps, rtol=CLOSE, atol=CLOSE)
    if kind == "openvino":  # size and number of images differ from the export
        images = torch.rand(3, 3, 70, 100, generator=torch.Generator().manual_seed(0))
        scores = scorer.predict(images).pred_score
        np.testing.assert_allclose(scores.ravel(), plain.detector.predict_batch(images)[0], rtol=CLOSE, atol=CLOSE)


def test_before_training_there_is_nothing_to_score_or_export(tmp_path: Path) -> None:
    model = module()
    with pytest.raises(NotCalibratedError, match="has no detector yet; train it"):
        model(torch.rand(1, 3, FILE_PX, FILE_PX))
    with pytest.raises(NotCalibratedError, match="has no detector yet; train it"):
        model.detector.save_pretrained(tmp_path)
    with pytest.raises(NotCalibratedError, match="has no detector yet; train it"):
        model.to_onnx(tmp_path)


# --- by name, and what is refused ---


@pytest.mark.parametrize("name", ["adv_rad", "AdvRad"])
def test_anomalib_knows_it_by_name_once_imported(name: str) -> None:
    from anomalib.models import get_model, list_models

    from advrad.integrations.anomalib import AdvRad

    assert "adv_rad" in list_models()
    model = get_model(name, steps=7)
    assert type(model) is AdvRad and model.options.steps == 7


def test_the_command_of_anomalib_trains_it_by_its_class_path(
    product: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anomalib.cli.cli import main

    options = {f"model.{name}": value for name, value in (OPTIONS | {"steps": 2}).items()}
    options |= {"data.name": "widget", "data.root": product, "data.num_workers": 0, "data.seed": 0}
    options |= {"data.normal_dir": "train/good", "data.abnormal_dir": "test/dent", "data.normal_test_dir": "test/good"}
    options |= {
        "data.mask_dir": "ground_truth/dent",
        "trainer.accelerator": "cpu",
        "trainer.logger": "false",
        "default_root_dir": tmp_path,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    classes = ["--model", "advrad.integrations.anomalib.AdvRad", "--data", "anomalib.data.Folder"]
    monkeypatch.setattr(sys, "argv", ["anomalib", "train", *classes, *words])
    main()
    (checkpoint,) = tmp_path.rglob("model.ckpt")
    assert torch.load(checkpoint, weights_only=True)["hyper_parameters"]["steps"] == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "steps 0: must be at least 1"),
        ({"preset": "huge"}, "huge.* is unknown"),
        ({"score": "best"}, "score"),
        ({"size_px": 70}, "70.* multiple of 32"),
        ({"false_alarm_rate": 1.5}, "false_alarm_rate 1.5: must lie between 0 and 1"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        module(**options)


def test_images_that_do_not_suit_are_refused(product: Path, tmp_path: Path) -> None:
    from anomalib.models import Padim

    shutil.copytree(product, tmp_path / "few")
    for path in sorted((tmp_path / "few" / "train" / "good").iterdir())[5:]:
        path.unlink()
    with pytest.raises(DataError, match="5 normal images to train on; at least 8"):
        engine(tmp_path / "a").fit(model=module(), datamodule=datamodule(tmp_path / "few"))
    normalising = Padim.configure_pre_processor((SIZE_PX, SIZE_PX))
    with pytest.raises(DataError, match=r"000\.png: values are not in \[0, 1\]"):
        engine(tmp_path / "b").fit(model=module(pre_processor=normalising), datamodule=datamodule(product))
