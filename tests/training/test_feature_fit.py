"""The fit of a detector on features: what the bank keeps, the seed, bounds on memory, and what is refused."""

from __future__ import annotations

import pytest
import torch
from toy_feature_detectors import SIZE_PX, anomalous_images, normal_images

from advrad.detectors.config import ImageCounts, TrainingRecord
from advrad.detectors.feature_memory import features_of
from advrad.detectors.nearest import flatten_positions
from advrad.errors import ConfigError, DataError
from advrad.metrics import auroc
from advrad.training import feature_fit
from advrad.training.coreset import fixed_positions
from advrad.training.feature_fit import fit_features
from advrad.utils.progress import SilentReporter

QUICK = {"network": "lite0", "layers": (1,)}
POSITIONS = (SIZE_PX // 4) ** 2


def test_a_small_bank_keeps_every_vector() -> None:
    images = normal_images(3)
    detector = fit_features(images, **QUICK)  # type: ignore[arg-type]
    expected = flatten_positions(features_of(detector.network, detector.config, images)).flatten(0, 1)
    assert torch.equal(detector.groups, torch.arange(3).repeat_interleave(POSITIONS))
    # Random positions come in random order: compare as sets.
    for row in range(3):
        of_image = expected[row * POSITIONS : (row + 1) * POSITIONS]
        torch.testing.assert_close(
            detector.bank[detector.groups == row].sort(0).values, of_image.sort(0).values, rtol=1e-5, atol=1e-5
        )


def test_a_large_bank_is_bounded_and_covers_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_fit, "BANK", 50)
    monkeypatch.setattr(feature_fit, "CANDIDATES", 200)
    images = torch.cat([normal_images(9), anomalous_images(1)])
    detector = fit_features(images, **QUICK)  # type: ignore[arg-type]
    assert len(detector.bank) == len(detector.groups) == 50
    assert 9 in detector.groups.tolist(), "what is rare is kept"


def test_the_same_positions_of_every_image_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_fit, "BANK", 100)
    images = normal_images(5)
    detector = fit_features(images, leave_one_out=True, **QUICK)  # type: ignore[arg-type]
    kept = fixed_positions(SIZE_PX // 4, SIZE_PX // 4, 20)
    maps = flatten_positions(features_of(detector.network, detector.config, images))
    torch.testing.assert_close(detector.bank.view(5, len(kept), -1), maps[:, kept], rtol=1e-5, atol=1e-5)
    assert torch.equal(detector.groups, torch.arange(5).repeat_interleave(len(kept)))
    assert detector.config.leaves_one_out


def test_the_seed_decides_and_bytes_count_as_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_fit, "BANK", 40)
    images = (normal_images(4) * 255).round().to(torch.uint8)
    first, again, other = (fit_features(images, seed=seed, **QUICK) for seed in (0, 0, 1))  # type: ignore[arg-type]
    as_floats = fit_features(images.float() / 255, **QUICK)  # type: ignore[arg-type]
    assert torch.equal(first.bank, again.bank) and torch.equal(first.bank, as_floats.bank)
    assert not torch.equal(first.bank, other.bank)


def test_leave_one_out_scores_of_new_images_are_like_those_of_known_ones() -> None:
    detector = fit_features(normal_images(10), leave_one_out=True, **QUICK)  # type: ignore[arg-type]
    known = detector.scores(normal_images(10), exclude=torch.arange(10))
    new = detector.scores(normal_images(10, seed=4))
    assert float(known.min()) * 0.9 < float(new.median()) < float(known.max()) * 1.1


def test_the_record_of_the_data_is_kept() -> None:
    given = TrainingRecord(seen=("abc",))
    detector = fit_features(normal_images(3), training=given, pad=True, image_size_px=SIZE_PX, **QUICK)  # type: ignore[arg-type]
    assert detector.config.training.seen == ("abc",)
    assert detector.config.training.images == ImageCounts(train=3)
    assert "advrad" in detector.config.training.versions
    assert detector.framing.pad and detector.config.calibration is None


def test_progress_is_told() -> None:
    class Listener(SilentReporter):
        def __init__(self) -> None:
            self.stages: list[str] = []
            self.last = (0, 0)

        def stage(self, title: str) -> None:
            self.stages.append(title)

        def update(self, done: int, total: int) -> None:
            self.last = (done, total)
            assert done <= total

    listener = Listener()
    fit_features(normal_images(5), leave_one_out=True, progress=listener, **QUICK)  # type: ignore[arg-type]
    assert listener.stages == ["Describing normal images"] and listener.last == (5, 5)


def test_too_few_images_are_refused() -> None:
    with pytest.raises(ConfigError, match="needs 2 normal images, but there are 1"):
        fit_features(normal_images(1), leave_one_out=True, **QUICK)  # type: ignore[arg-type]
    with pytest.raises((ConfigError, DataError)):
        fit_features(normal_images(1)[:0], **QUICK)  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [torch.full((2, 3, 8, 8), float("nan")), torch.zeros(2, 1, 8, 8)])
def test_bad_images_are_refused(bad: torch.Tensor) -> None:
    with pytest.raises(DataError):
        fit_features(bad, **QUICK)  # type: ignore[arg-type]


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(ConfigError):
        fit_features(normal_images(1), network="no_such_network")


@pytest.mark.real
def test_real_defects_are_found(shared_data) -> None:  # type: ignore[no-untyped-def]
    """The defaults, on a few images of one product."""
    from advrad.data.images import read_resized

    folder = shared_data / "mvtec_ad" / "bottle"
    read = [
        torch.stack([read_resized(file, 128) for file in sorted((folder / name).iterdir())[:8]])
        for name in ("train/good", "test/good", "test/broken_large")
    ]
    detector = fit_features(read[0])
    normal, anomalous = (detector.predict_batch(part).scores for part in read[1:])
    assert auroc([0] * 8 + [1] * 8, torch.cat([normal, anomalous]).numpy()) > 0.95
