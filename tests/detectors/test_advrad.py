"""AdvRAD: exact gradients, independent scores, and verdicts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from toy_datasets import write_good
from toy_models import (
    NEAR,
    TINY,
    TWO_VIEWS,
    assert_gradient,
    detector,
    generator,
    random_denoiser,
    random_images,
    statistics,
)

import advrad.utils.precision
from advrad.data.images import read_resized
from advrad.data.transforms import resize
from advrad.denoisers.lean import LeanDenoiser
from advrad.denoisers.sampling import reconstruct
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.config import DetectorConfig
from advrad.detectors.conformal import conformal_threshold
from advrad.detectors.score_config import ScoreConfig, paper_score
from advrad.detectors.scoring import (
    MapStatistics,
    divide_by_image_mean,
    error_map,
    mean_filter,
    pool,
    scale_errors,
    smooth,
)
from advrad.errors import ConfigError, DataError, ImageError, NotCalibratedError
from advrad.utils.precision import bfloat16_is_native

# --- scoring ---------------------------------------------------------------------------------------------------------


def test_shapes() -> None:
    made = detector()
    with torch.no_grad():
        scores, maps, recon = made.infer(random_images(3, 48), generator(1))
        assert scores.shape == (3,) and maps.shape == (3, 1, 32, 32) and recon.shape == (3, 3, 32, 32)
        assert torch.equal(made.score(random_images(3, 48), generator(1)), scores)
        assert torch.equal(made(random_images(3, 48), generator(1)), scores)
        assert torch.equal(made.anomaly_maps(random_images(3, 48), generator(1)), maps)
        assert torch.equal(made.reconstruct(random_images(3, 48), generator(1)), recon)


def test_the_papers_score_is_the_largest_deviation_from_the_mean_error() -> None:
    config = paper_score(32, sigma=0.26)
    mean = 0.02 * torch.rand(1, 1, 32, 32, generator=generator(3))
    made = AdvRAD(
        random_denoiser(),
        DetectorConfig(denoiser=TINY, size_px=32, score=config),
        [MapStatistics(mean, torch.ones_like(mean))],
    ).eval()
    images = random_images(4)
    with torch.no_grad():
        recon = reconstruct(random_denoiser(), images, 0.26, generator(1))
        got, maps, given = made.infer(images, generator(1))
    wanted = (error_map(images, recon, 3) - mean).abs()
    torch.testing.assert_close(got, wanted.amax((1, 2, 3)))
    torch.testing.assert_close(maps, wanted)
    torch.testing.assert_close(given, recon)


def test_views_are_averaged_in_units_of_their_spread() -> None:
    images = random_images(2)
    parts = statistics(TWO_VIEWS)
    with torch.no_grad():
        together = detector(calibrated=False).score(images, generator(1))
        # The views use one generator in turn, so each view alone continues after the draws of the one before.
        draws, total = generator(1), torch.zeros(2)
        for view in TWO_VIEWS.views:
            score = TWO_VIEWS.model_copy(update={"views": (view,)})
            own, parts = parts[:4], parts[4:]
            alone = AdvRAD(random_denoiser(), DetectorConfig(denoiser=TINY, size_px=32, score=score), own)
            total += alone.score(images, draws) / 2
    torch.testing.assert_close(together, total)


def test_maps_are_averaged_in_units_of_their_spread() -> None:
    images = random_images(2)
    score = TWO_VIEWS.model_copy(update={"views": (NEAR,)})
    parts = statistics(score)
    config = DetectorConfig(denoiser=TINY, size_px=32, score=score, precision="float32")
    together = AdvRAD(random_denoiser(), config, parts).predict_batch(images)[0]
    with torch.no_grad():
        errors = scale_errors(images, reconstruct(random_denoiser(), images, NEAR.sigma, generator(config.noise_seed)))
    total = torch.zeros(2)
    for error, part in zip(errors, parts, strict=True):
        values = pool(
            (divide_by_image_mean(mean_filter(error, 3), part.ceiling) - part.mean) / part.spread,
            score.pooling,
        )
        total += (values - part.location) / part.scale / 4
    torch.testing.assert_close(together, total)


def test_smoothing_changes_the_map_and_never_the_score() -> None:
    images = random_images(2)
    plain = detector().predict_batch(images)
    smoothed = detector(TWO_VIEWS.model_copy(update={"map_filter_px": 9})).predict_batch(images)
    assert torch.equal(smoothed[0], plain[0]) and torch.equal(smoothed[2], plain[2])
    torch.testing.assert_close(smoothed[1], smooth(plain[1], 9))
    assert float((smoothed[1] - plain[1]).abs().max()) > 1e-3


def test_each_view_costs_one_call_at_its_own_size() -> None:
    made = detector()
    calls = []
    handle = made.denoiser.network.register_forward_pre_hook(lambda module, given: calls.append(given[0].shape[-1]))
    made.predict_batch(random_images(1))
    handle.remove()
    assert calls == [32, 16]


def test_no_images_give_no_results_of_the_right_shape() -> None:
    made = detector()
    none = torch.zeros(0, 3, 48, 40)
    with torch.no_grad():
        results = [made.predict_batch(none), made.infer(none, generator(1))]
    for scores, maps, recon in results:
        assert scores.shape == (0,) and maps.shape == (0, 1, 32, 32) and recon.shape == (0, 3, 32, 32)
    assert list(made.predict(none)) == list(made.predict([])) == []
    with pytest.raises(DataError, match=r"expected \(b, 3, h, w\)"):
        made.predict_batch(torch.zeros(0))


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 1, 32, 32), (1, 32, 32, 3), (2, 4, 32, 32)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"expected \(b, 3, h, w\)"):
        detector(calibrated=False).score(torch.rand(shape), generator())


def test_a_score_depends_on_its_own_image_only() -> None:
    made = detector(calibrated=False).double()
    images = random_images(4, dtype=torch.float64)
    with torch.no_grad():
        together = made.infer(images, generator(1))
        for i in range(4):
            for row, rows in zip(made.infer(images[i : i + 1], generator(1)), together, strict=True):
                torch.testing.assert_close(row[0], rows[i], rtol=0, atol=1e-9)
        images[1:] = 7.0
        assert torch.equal(made.infer(images, generator(1)).scores[0], together[0][0])


# --- gradients -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("size_px", [32, 40])
def test_gradient_of_the_whole_score_is_exact(steps: int, size_px: int) -> None:
    made = detector(TWO_VIEWS.model_copy(update={"steps": steps, "draws": 2}), calibrated=False).double()
    assert_gradient(lambda x: made.score(x, generator(1)), random_images(2, size_px, dtype=torch.float64))


@pytest.mark.parametrize("pooling", [0.0, 0.01])
@pytest.mark.parametrize("normalisation", ["none", "mean", "spread"])
def test_gradient_of_every_kind_of_score_is_exact(normalisation: str, pooling: float) -> None:
    score = ScoreConfig(views=(NEAR,), normalisation=normalisation, pooling=pooling, map_filter_px=5)  # type: ignore[arg-type]
    made = detector(score, calibrated=False).double()
    # Black, white and all between: no pixel is too dark or bright to have a gradient.
    images = (1.5 * random_images(1, 32, dtype=torch.float64) - 0.25).clamp(0, 1)
    # Steps lead out of [0, 1] here, which `score` refuses.
    assert_gradient(lambda x: made.infer(x, generator(1)).scores, images)
    assert_gradient(lambda x: made.infer(x, generator(1)).anomaly_maps, images)


class Stopping(LeanDenoiser):
    """A denoiser with a planted fault: its answer has no gradient."""

    def denoise(self, *arguments: torch.Tensor) -> torch.Tensor:
        return super().denoise(*arguments).detach()


class Clamping(LeanDenoiser):
    """A denoiser with a planted fault: its answer is kept in the range of images."""

    def denoise(self, *arguments: torch.Tensor) -> torch.Tensor:
        return super().denoise(*arguments).clamp(0, 1)


def test_a_detached_reconstruction_is_caught() -> None:
    """The explicit image in the error still has a gradient, so only finite differences notice."""
    made = detector(calibrated=False).double()
    made.denoiser.__class__ = Stopping
    with pytest.raises(AssertionError, match="finite difference"):
        assert_gradient(lambda x: made.score(x, generator(1)), random_images(2, dtype=torch.float64))


def test_nothing_is_clamped() -> None:
    made = detector(calibrated=False)
    with torch.no_grad():
        recon = made.infer(4 * random_images(2) - 1.5, generator(1)).reconstructions
        assert recon.min() < -0.1 and recon.max() > 1.1
        made.denoiser.__class__ = Clamping
        clamped = made.infer(4 * random_images(2) - 1.5, generator(1)).reconstructions
        assert clamped.min() >= 0 and clamped.max() <= 1, "the planted fault does not show"


def test_the_caller_decides_on_gradients_and_mode() -> None:
    made = detector(calibrated=False)
    for training in (True, False):
        made.train(training)
        assert made.score(random_images(1), generator(1)).requires_grad
        assert made.training is training and made.denoiser.training is training


# --- deciding --------------------------------------------------------------------------------------------------------


def test_without_a_threshold_there_are_no_verdicts() -> None:
    made = detector(calibrated=False)
    with pytest.raises(NotCalibratedError, match="calibrate"):
        list(made.predict(random_images(1)))
    with pytest.raises(NotCalibratedError):
        made.calibration  # noqa: B018
    made.predict_batch(random_images(1))  # scoring needs no threshold


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_batch_size_changes_nothing(batch_size: int) -> None:
    made, images = detector(), random_images(10)
    wanted = list(made.predict(images, batch_size=10))
    got = list(made.predict(images, batch_size=batch_size))
    assert len(got) == 10
    for one, other in zip(got, wanted, strict=True):
        assert one.score == pytest.approx(other.score, rel=1e-5, abs=1e-5)
        assert one.defective == other.defective
        np.testing.assert_allclose(one.anomaly_map, other.anomaly_map, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(one.reconstruction, other.reconstruction, rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not bfloat16_is_native(torch.device("cpu")), reason="the processor has no bfloat16")
def test_batch_size_changes_little_in_bfloat16() -> None:
    made, images = detector(precision="bfloat16"), random_images(8)
    wanted = made.predict_batch(images)[0]
    got = torch.cat([made.predict_batch(images[i : i + 1])[0] for i in range(8)])
    # Processors sum in an order that depends on the batch, and what is then rounded is coarse.
    assert float((got - wanted).abs().max()) < 0.02 * float(wanted.std())
    assert not torch.equal(wanted, detector().predict_batch(images)[0]), "bfloat16 was not used"


def test_predictions_repeat_bit_by_bit() -> None:
    made, images = detector(), random_images(3)
    torch.manual_seed(1)
    first = made.predict_batch(images)
    torch.manual_seed(2)  # the noise is the detector's own
    for one, other in zip(first, made.predict_batch(images), strict=True):
        assert torch.equal(one, other)
    other_noise = AdvRAD(
        made.denoiser, made.detector_config.model_copy(update={"noise_seed": 5}), statistics(TWO_VIEWS)
    )
    assert not torch.equal(other_noise.predict_batch(images)[0], first[0])


@pytest.mark.parametrize("training", [True, False])
def test_state_is_restored_after_predicting(training: bool) -> None:
    made = detector().train(training)
    seen = []
    handle = made.denoiser.register_forward_pre_hook(lambda *_: None)
    made.denoiser.network.register_forward_pre_hook(
        lambda module, given: seen.append((module.training, torch.is_grad_enabled()))
    )
    predictions = made.predict(random_images(3), batch_size=1)
    next(predictions)
    assert made.training is training and torch.is_grad_enabled(), "between two images the caller is at home"
    list(predictions)
    assert made.training is training and torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    assert set(seen) == {(False, False)}
    with pytest.raises(DataError):
        made.predict_batch(torch.rand(1, 1, 8, 8))
    assert made.training is training and torch.is_grad_enabled()
    handle.remove()


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [write_good(tmp_path / f"part{i}.png", 40 + 4 * i, i) for i in range(5)]


def test_paths_are_predicted_in_order_like_their_pixels(files: list[Path]) -> None:
    made = detector()
    shuffled = [files[i] for i in (3, 0, 4, 1, 2)]
    got = list(made.predict(iter(shuffled), batch_size=2))
    assert [prediction.path for prediction in got] == shuffled
    images = torch.stack([read_resized(path, 32) for path in shuffled])
    for prediction, wanted in zip(got, made.predict(images), strict=True):
        assert prediction.score == pytest.approx(wanted.score, rel=1e-5, abs=1e-5)
        assert wanted.path is None
    assert len({prediction.score for prediction in got}) == 5


def test_one_path_may_be_given(files: list[Path]) -> None:
    made = detector()
    (as_path,), (as_text,) = made.predict(files[0]), made.predict(str(files[0]))
    assert as_path.score == as_text.score and as_text.path == files[0]
    assert as_path.anomaly_map.shape == (32, 32) and as_path.reconstruction.shape == (32, 32, 3)
    assert as_path.anomaly_map.dtype == as_path.reconstruction.dtype == np.float32


def test_an_unreadable_image_is_named(files: list[Path], tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(files[0].read_bytes()[:100])
    predictions = detector().predict([files[0], broken], batch_size=1)
    next(predictions)
    with pytest.raises(ImageError, match=r"broken\.png"):
        next(predictions)


def test_verdict_is_score_above_threshold() -> None:
    made = detector()
    predictions = list(made.predict(random_images(20, seed=7)))
    assert all(p.threshold == made.calibration.threshold for p in predictions)
    assert all(p.defective is (p.score > p.threshold) for p in predictions)
    at_threshold = made.calibration.model_copy(update={"threshold": predictions[0].score})
    made.update_config(calibration=at_threshold)
    assert not next(made.predict(random_images(20, seed=7))).defective


def test_calibration_is_conformal_and_stores_its_source() -> None:
    made = detector(calibrated=False)
    batches = [random_images(7, seed=1), random_images(6, seed=2), random_images(7, seed=3)]
    scores = torch.cat([made.predict_batch(batch)[0] for batch in batches]).tolist()
    made.calibrate(iter(batches), 0.05, {"data": "here"})
    calibration = made.calibration
    assert calibration.threshold == conformal_threshold(scores, 0.05) == max(scores)
    assert (calibration.n, calibration.false_alarm_rate, calibration.source) == (20, 0.05, {"data": "here"})
    assert calibration.heat_low < calibration.heat_high
    made.calibrate(batches, 0.3)
    assert made.calibration.threshold < calibration.threshold


def test_too_few_calibration_images_leave_it_uncalibrated() -> None:
    made = detector(calibrated=False)
    with pytest.raises(ConfigError, match="needs 19 calibration images, there are 5"):
        made.calibrate([random_images(5)])
    assert made.detector_config.calibration is None


def test_views_and_statistics_must_match() -> None:
    config = DetectorConfig(denoiser=TINY, size_px=32, score=TWO_VIEWS)
    with pytest.raises(ConfigError, match="8 error maps but 1 statistics"):
        AdvRAD(random_denoiser(), config, statistics(TWO_VIEWS)[:1])


def test_images_are_resized_differentiably_first() -> None:
    made = detector(calibrated=False)
    images = random_images(2, 64)
    with torch.no_grad():
        assert torch.equal(made.score(images, generator(1)), made.score(resize(images, 32), generator(1)))


def test_the_processor_decides_on_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    made = detector(precision="auto")
    made.denoiser.network.stem.register_forward_hook(lambda module, given, out: seen.append(out.dtype))
    for native, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(advrad.utils.precision, "bfloat16_is_native", lambda device, native=native: native)
        seen.clear()
        made.predict_batch(random_images(1))
        assert set(seen) == {dtype}
