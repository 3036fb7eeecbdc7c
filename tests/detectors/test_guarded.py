"""A guarded detector: scores, bounds that hold whatever the attackable half says, and verdicts in words."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from toy_guarded import EPS, SIZE_PX, Contrast, NoisyContrast, closed_form, dents, guarded, haze, normals
from toy_models import detector as learned_detector
from toy_models import generator

from advrad.detectors.base import (
    DetectorOutput,
    SupportsGradientPrecision,
    SupportsScoreBounds,
    SupportsStickerBounds,
)
from advrad.detectors.config import RecordedFigures, RobustCalibration
from advrad.detectors.guarded import GuardedDetector
from advrad.detectors.guarded_config import AttackableConfig, GuardedConfig
from advrad.detectors.guarded_tests import limit, surprise
from advrad.detectors.saved import SupportsPrediction
from advrad.detectors.wrappers import as_detector, wrap
from advrad.errors import ConfigError, DataError

CEILINGS = (-0.5, 0.0, 0.4)
MIXED = torch.cat([normals(2, 5), dents(2, 6), dents(1, 7, depth=0.08), haze(1, 8)])


@pytest.fixture(scope="module")
def made() -> GuardedDetector:
    return guarded()


@pytest.fixture(scope="module", params=CEILINGS)
def at_ceiling(request: pytest.FixtureRequest) -> GuardedDetector:
    return guarded(ceiling=request.param)


def half_of(made: GuardedDetector, answer: Callable[[Tensor], DetectorOutput]) -> GuardedDetector:
    """The same detector with another attackable half, and the same tests."""
    return GuardedDetector(made.config, made.memory, {"half": wrap(answer)}).eval()


def test_it_is_what_attacks_certificates_and_prediction_need(made: GuardedDetector) -> None:
    assert isinstance(made, SupportsScoreBounds) and isinstance(made, SupportsPrediction)
    assert isinstance(made, SupportsStickerBounds) and isinstance(made, SupportsGradientPrecision)
    assert as_detector(made) is made and made.image_size_px == SIZE_PX and made.size_px is None
    assert made.threshold == 0.0 and made.device == torch.device("cpu") and list(made.others) == ["half"]
    assert made.framing == made.memory.framing


def test_it_is_deterministic_only_if_all_halves_are(made: GuardedDetector) -> None:
    assert made.deterministic and made.differentiable and made.noise_seed is None
    steady, noisy = (wrap(part, deterministic=certain, noise_seed=seed) for part, certain, seed in (
        (Contrast(), True, None), (NoisyContrast(), False, 4),
    ))  # fmt: skip
    assert not guarded(steady, noisy).deterministic and guarded(steady, noisy).noise_seed == 4
    other = wrap(NoisyContrast(), noise_seed=5)
    assert guarded(noisy, other).noise_seed is None  # no single seed is that of both
    without = guarded(wrap(NoisyContrast()))
    assert without.noise_seed == 0  # the one that predictions use, which an attacker may know
    assert torch.allclose(without.infer(MIXED[:1], generator(0)).scores, without.predict_batch(MIXED[:1]).scores)


def test_the_score_is_the_largest_surprise_and_the_verdict_that_of_any_half(at_ceiling: GuardedDetector) -> None:
    made, ceiling = at_ceiling, at_ceiling.config.ceiling
    output = made.predict_batch(MIXED)
    memory = made.memory.predict_batch(MIXED)
    maps = 1e3 * Contrast().maps(MIXED)
    expected = torch.maximum(
        surprise(memory.scores, made.tests[0]), limit(surprise(maps.flatten(1).amax(1), made.tests[1]), ceiling)
    )
    assert torch.allclose(output.scores, expected, atol=1e-5) and output.scores.dtype == torch.float64
    assert output.half_scores is not None and output.speaks is not None and output.defective is not None
    assert torch.equal(output.half_scores[:, 0].float(), memory.scores)
    by_memory = memory.scores > made.tests[0].threshold
    assert torch.equal(output.speaks[:, 0], by_memory)
    assert output.defective.tolist() == [False, False, True, True, True, True]
    assert by_memory.tolist() == [False, False, True, True, True, False]  # haze is for the other half alone
    assert torch.equal(output.scores > 0, output.defective if ceiling > 0 else by_memory)
    assert output.errors == ((None,) * 6, (None,) * 6)


def test_rows_and_batches_do_not_matter(made: GuardedDetector) -> None:
    whole = made.predict_batch(MIXED)
    alone = torch.cat([made.predict_batch(MIXED[row : row + 1]).scores for row in range(len(MIXED))])
    assert torch.equal(whole.scores, alone)
    assert torch.allclose(made.infer(MIXED, generator()).scores, whole.scores, atol=1e-5)


def test_images_of_any_size_reach_the_halves_as_working_images() -> None:
    sizes: list[tuple[int, ...]] = []

    def note(images: Tensor) -> Tensor:
        sizes.append(tuple(images.shape[2:]))
        return images.amax((1, 2, 3))

    made = guarded(wrap(Contrast(), size_px=SIZE_PX))
    made.predict_batch(torch.rand(2, 3, 48, 40, generator=generator(1)))
    other = half_of(guarded(), note)
    other.infer(torch.rand(2, 3, 48, 40, generator=generator(1)).half(), generator())
    assert set(sizes) == {(SIZE_PX, SIZE_PX)}


# --- Bounds ---


def attacked(made: GuardedDetector, images: Tensor, radius: float, norm: str) -> list[Tensor]:
    """Images within a radius, at random and along the gradients of every surrogate loss, up and down."""
    found = []
    for step in range(3):
        noise = torch.randint(0, 2, images.shape, generator=generator(step)) * 2.0 - 1
        found.append(within(images + radius * noise, images, radius, norm))
    for loss, sign in itertools.product(made.surrogates.values(), (1.0, -1.0)):
        moved = images.clone()
        for _ in range(2):
            moved.requires_grad_()
            (gradient,) = torch.autograd.grad(loss(moved, generator()).sum(), moved)
            moved = within(moved.detach() + sign * radius * gradient.sign(), images, radius, norm)
        found.append(moved)
    return found


def within(moved: Tensor, images: Tensor, radius: float, norm: str) -> Tensor:
    """The nearest image within the radius whose values lie in [0, 1]."""
    change = moved - images
    if norm == "l2":
        change = change * (radius / change.flatten(1).norm(dim=1).clamp_min(1e-9)).clamp_max(1)[:, None, None, None]
        return (images + 0.999 * change).clamp(0, 1)
    return (images + change.clamp(-radius, radius)).clamp(0, 1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_no_attack_leaves_the_bounds(norm: str, at_ceiling: GuardedDetector) -> None:
    made, radius = at_ceiling, EPS if norm == "linf" else 0.3
    bounds = made.score_bounds(MIXED, radius, norm)  # type: ignore[arg-type]
    clean = made.predict_batch(MIXED)
    assert torch.equal(bounds.scores, clean.scores)
    for moved in [MIXED, *attacked(made, MIXED, radius, norm)]:
        for output in (made.infer(moved, generator()), made.predict_batch(moved)):
            assert bool((bounds.lower <= output.scores).all() and (output.scores <= bounds.upper).all())
            assert output.anomaly_maps is not None and bool((bounds.lower_map <= output.anomaly_maps).all())
    narrow = made.score_bounds(MIXED, 0.0, "linf")
    alone = surprise(made.memory.predict_batch(MIXED).scores, made.tests[0])
    assert bool((narrow.lower > alone - 0.2).all())  # what rounding costs


@pytest.mark.parametrize("value", [-1e30, 0.0, 1e30, float("nan"), float("inf"), float("-inf"), None])
def test_the_attackable_half_may_say_anything(value: float | None, at_ceiling: GuardedDetector) -> None:
    """Whatever it returns, or if it raises: ``a(L) <= S <= max(a(U), ceiling)``, and the memory's verdicts stand."""

    def answer(images: Tensor) -> DetectorOutput:
        if value is None:
            raise RuntimeError("broken by an attack")
        return DetectorOutput(torch.full((len(images),), value), torch.full_like(images[:, :1], value))

    made = half_of(at_ceiling, answer)
    ceiling, test = made.config.ceiling, made.tests[0]
    for moved, radius in ((MIXED, 0.0), (within(MIXED + EPS, MIXED, EPS, "linf"), EPS)):
        theirs, ours = (part.score_bounds(MIXED, radius, "linf") for part in (made.memory, made))
        assert torch.equal(ours.lower, surprise(theirs.lower, test))
        assert torch.equal(ours.upper, surprise(theirs.upper, test).clamp_min(ceiling))
        for output in (made.infer(moved, generator()), made.predict_batch(moved)):
            assert torch.isfinite(output.scores).all()
            assert bool((ours.lower <= output.scores).all() and (output.scores <= ours.upper).all())
            assert output.anomaly_maps is not None and bool((output.anomaly_maps >= ours.lower_map).all())
            certain = theirs.lower > test.threshold
            assert output.defective is not None and bool(output.defective[certain].all()) and bool(certain.any())


def test_no_sticker_leaves_its_bound(made: GuardedDetector) -> None:
    images, side = dents(2, 3, depth=0.5), 5
    silent = half_of(made, lambda some: DetectorOutput(some.new_full((len(some),), -1e9), some[:, :1] * 0))
    bounds = silent.sticker_bounds(images, side)
    assert torch.equal(bounds, surprise(made.memory.sticker_bounds(images, side), made.tests[0]))
    left = []
    for y, x in itertools.product(range(0, SIZE_PX - side, 4), repeat=2):
        covered = images.clone()
        covered[:, :, y : y + side, x : x + side] = normals(1, 0)[:, :, y : y + side, x : x + side]
        left.append(silent.predict_batch(covered).scores)
    assert bool((torch.stack(left) >= bounds).all()) and bool(torch.isfinite(bounds).all())


# --- Attacks ---


def test_attacks_may_follow_every_half_alone(at_ceiling: GuardedDetector) -> None:
    made, images = at_ceiling, MIXED.clone().requires_grad_()
    losses = made.surrogates
    kinds = {name: loss.kind for name, loss in losses.items()}
    assert {name for name, kind in kinds.items() if kind == "part"} == {"memory", "half", "verdict"}
    assert kinds["all halves"] == "surrogate" and any(name.startswith("memory: top") for name in losses)
    for loss in losses.values():
        (gradient,) = torch.autograd.grad(loss(images, generator()).sum(), images)
        assert torch.isfinite(gradient).all() and bool((gradient.flatten(1).abs().amax(1) > 0).all())
    output = made.predict_batch(MIXED)
    assert output.half_scores is not None
    alone = [surprise(output.half_scores[:, place], made.tests[place]) for place in range(2)]
    for name, expected in (
        ("memory", alone[0]), ("half", alone[1]), ("verdict", torch.maximum(*alone)),
        ("all halves", alone[0] + alone[1]),
    ):  # fmt: skip
        with torch.no_grad():
            assert torch.allclose(losses[name](MIXED, generator()), expected, atol=1e-4)
    with torch.no_grad():  # defective is what exceeds 0, whatever the ceiling
        assert torch.equal(losses["verdict"](MIXED, generator()) > 0, output.defective)


def test_losses_of_a_half_come_along() -> None:
    part = wrap(Contrast(), deterministic=True, surrogates={"mean": lambda images, noise: images.mean((1, 2, 3))})
    made = guarded(part)
    assert made.surrogates["half: mean"].kind == "surrogate"
    tall = torch.rand(1, 3, 64, 32, generator=generator(1))
    expected = made.framing.apply(tall).mean((1, 2, 3))
    assert torch.equal(made.surrogates["half: mean"](tall, generator()), expected)


def test_a_part_draws_the_noise_that_the_score_draws() -> None:
    made, draws = guarded(wrap(NoisyContrast()), wrap(Contrast(), deterministic=True)), generator(3)
    output = made.infer(MIXED, draws)
    assert output.half_scores is not None
    alone = made.surrogates["half"](MIXED, generator(3))
    assert torch.allclose(alone, surprise(output.half_scores[:, 1], made.tests[1]))
    again = made.infer(MIXED, draws)
    assert again.half_scores is not None
    assert not torch.equal(again.half_scores[:, 1], output.half_scores[:, 1])  # the next call draws other noise
    assert torch.equal(again.half_scores[:, ::2], output.half_scores[:, ::2])


@pytest.mark.parametrize("memory_decides", [True, False])
def test_a_half_with_infinite_derivatives_does_not_spoil_the_gradient(memory_decides: bool) -> None:
    """Its score is the root of something that is 0, so that its derivative is infinite."""
    part = guarded()

    def rooted(images: Tensor) -> Tensor:
        return (images - images.detach()).sum((1, 2, 3)).sqrt()

    made = half_of(part, rooted)
    level = 1e3 if memory_decides else -1e3
    made.update_config(tests=(made.tests[0], made.tests[1].model_copy(update={"threshold": level})), ceiling=1e6)
    images = dents(2, 1).requires_grad_()
    (gradient,) = torch.autograd.grad(made.infer(images, generator()).scores.sum(), images)
    assert bool(torch.isfinite(gradient).all()) == memory_decides
    if memory_decides:
        expected = torch.autograd.grad(made.surrogates["memory"](images, generator()).sum(), images)[0]
        assert torch.allclose(gradient, expected) and gradient.abs().sum() > 0
    (gradient,) = torch.autograd.grad(made.surrogates["all halves"](images, generator()).sum(), images)
    assert torch.isfinite(gradient).all() and gradient.abs().sum() > 0


def test_the_gradient_precision_is_that_of_a_learned_half() -> None:
    learned = learned_detector(calibrated=False)
    config = GuardedConfig(memory=closed_form(normals(4, 0)).config, others=(AttackableConfig(name="learned"),))
    made = GuardedDetector(config, closed_form(normals(4, 0)), {"learned": learned}).eval()
    made.calibrate([normals(39, 1)], 0.05)
    assert made.gradient_precision == "float32" and made.noise_seed == learned.config.noise_seed
    other = made.with_gradient_precision("bfloat16")
    assert other.gradient_precision == "bfloat16" or not torch.backends.mkldnn.is_available()
    assert torch.equal(other.predict_batch(MIXED).scores, made.predict_batch(MIXED).scores)
    # A white-box call with the stored noise gives what predict gives.
    stored = made.infer(MIXED, generator(learned.config.noise_seed))
    assert torch.allclose(stored.scores, made.predict_batch(MIXED).scores, atol=1e-3)


def with_robust_threshold() -> GuardedDetector:
    made = guarded()
    robust = RobustCalibration(threshold=12.0, false_alarm_rate=0.1, radius=EPS, norm="linf", n=59)
    made.update_config(robust_calibration=robust, figures=RecordedFigures(certified_linf={"2/255": 0.9}))
    return made


def test_new_tests_leave_nothing_that_holds_for_the_old_ones() -> None:
    made = with_robust_threshold()
    made.calibrate([normals(39, 1)], 0.05)
    assert made.config.robust_calibration is None and made.config.figures == RecordedFigures()


def test_another_ceiling_leaves_nothing_that_holds_for_the_old_one() -> None:
    made = with_robust_threshold()
    robust = made.config.robust_calibration
    made.update_config(ceiling=made.config.ceiling)
    assert made.config.robust_calibration == robust
    made.update_config(ceiling=0.4)
    assert made.config.robust_calibration is None and made.config.figures == RecordedFigures()
    made.update_config(ceiling=0.0, robust_calibration=robust)
    assert made.config.robust_calibration == robust


def test_perturbations_that_make_no_sense_are_refused(made: GuardedDetector) -> None:
    for radius, norm, words in (
        (-1.0, "linf", "radius -1: must be 0 or more"),
        (float("nan"), "linf", "radius nan: must be"),
        (EPS, "Linf", "norm Linf: must be linf or l2"),
        (None, "Linf", "radius: must be given with this norm"),
        (None, "l2", "radius: must be given with this norm: that of the configuration is in linf"),
    ):
        with pytest.raises(ConfigError, match=words):
            made.verdicts(MIXED, radius, norm)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="norm l1: must be linf or l2"):
        made.score_bounds(MIXED, EPS, "l1")  # type: ignore[arg-type]


# --- Failures ---


def test_a_failing_half_makes_its_image_defective_with_the_reason(at_ceiling: GuardedDetector) -> None:
    marked = float(MIXED[1].mean())

    def answer(images: Tensor) -> DetectorOutput:
        if any(abs(float(image.mean()) - marked) < 1e-6 for image in images):
            raise ValueError("the lamp is out")
        return DetectorOutput(images.new_zeros(len(images)), torch.zeros_like(images[:, :1]))

    made = half_of(at_ceiling, answer)
    verdicts = made.verdicts(MIXED)
    assert verdicts[1].word == "defective" and verdicts[1].reason is not None
    assert verdicts[1].reason.startswith("half failed: the detector fails on 1 image") and "lamp" in verdicts[1].reason
    assert verdicts[1].halves[1].error is not None and verdicts[1].halves[1].speaks
    alone = float(surprise(made.memory.predict_batch(MIXED[1:2]).scores, made.tests[0]))
    assert verdicts[1].score == pytest.approx(max(made.config.ceiling, alone))
    assert [verdict.reason for place, verdict in enumerate(verdicts) if place != 1] == [None] * 5
    assert str(verdicts[0].word).startswith("good")


def test_a_failing_memory_is_a_defect_too(made: GuardedDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(images: Tensor, generator: object = None) -> DetectorOutput:
        raise RuntimeError("damaged")

    monkeypatch.setattr(made.memory, "infer", broken)
    [verdict] = made.verdicts(normals(1, 5))
    assert verdict.word == "defective" and verdict.reason == "memory failed: RuntimeError: damaged"
    assert verdict.score == 1.0 and verdict.halves[0].lower is None


def test_images_that_are_none_are_refused_not_called_defective(made: GuardedDetector) -> None:
    broken = MIXED[:1].clone()
    broken[0, 0, 0, 0] = torch.nan
    for call in (made.predict_batch, made.verdicts):
        with pytest.raises(DataError, match=r"NaN|finite"):
            call(broken)
    with pytest.raises(DataError, match="expected"):
        made.infer(torch.zeros(3, 8, 8), generator())
