"""A guarded detector under attack: its bounds and its proven verdicts hold, and the attacks are not weaker for it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toy_guarded import EPS, SIZE_PX, Contrast, NoisyContrast, dents, guarded, haze, normals

import advrad
from advrad.attacks.base import value_and_gradient
from advrad.attacks.objectives import make_objective
from advrad.attacks.plan import AttackPlan
from advrad.attacks.results import AttackResult
from advrad.attacks.sanity_checks import check_detector
from advrad.attacks.selection import applicable_attacks
from advrad.attacks.suite import suite_attacks
from advrad.attacks.threat import Threat
from advrad.certificates.lipschitz import certified_auroc
from advrad.detectors.guarded import GuardedDetector
from advrad.detectors.guarded_tests import surprise
from advrad.detectors.probing import probe
from advrad.detectors.verdicts import Verdict
from advrad.detectors.wrappers import wrap

#: Defects that the memory only just sees: some are proven, some are not.
FAINT = 0.022
DATA = (torch.cat([normals(3, 5), dents(3, 6, FAINT), dents(1, 7, 0.06)]), [0] * 3 + [1] * 4)
#: A ceiling that the other half reaches on every attacked image, and that the memory can be driven beyond.
HIGH = 2.0


@pytest.fixture(scope="module")
def detector() -> GuardedDetector:
    return guarded()


@pytest.fixture(scope="module")
def suite() -> tuple[GuardedDetector, AttackResult]:
    """A detector with a high ceiling, and what the suite made of it."""
    made = guarded(ceiling=HIGH)
    return made, advrad.attack(made, DATA)


def proven(detector: GuardedDetector, images: Tensor, eps: float = EPS, norm: str = "linf") -> Tensor:
    """Which images the memory certainly calls defective."""
    return detector.memory.score_bounds(images, eps, norm).lower > detector.tests[0].threshold  # type: ignore[arg-type]


def assert_held(detector: GuardedDetector, result: AttackResult, eps: float, norm: str) -> None:
    """What no attack may break: the bounds of the score, the proven verdicts, and the certified AUROC."""
    assert result.bounds is not None and result.verdicts is not None and result.robust_auroc is not None
    assert result.bounds.violations == (), result.bounds.violations
    bounds = detector.score_bounds(DATA[0], eps, norm)  # type: ignore[arg-type]
    labels, (lower, upper) = np.array(DATA[1]), (part.double().numpy() for part in (bounds.lower, bounds.upper))
    floor = certified_auroc(labels, lower, upper)
    assert floor is not None and result.robust_auroc >= floor - 1e-9
    certain = proven(detector, DATA[0], eps, norm)
    assert certain.tolist() == [word == Verdict.PROVEN_DEFECTIVE for word in bounds.words]
    for row, held in zip(result.rows, certain, strict=True):
        assert row.defective or not (held and row.label)
    assert result.verdicts.found >= int(certain[3:].sum())


@pytest.mark.parametrize(("norm", "eps"), [("linf", EPS), ("l2", 0.1)])
@pytest.mark.parametrize("surrogate", ["score", "memory", "half", "verdict", "all halves"])
def test_gradients_stay_inside_the_bounds(surrogate: str, norm: str, eps: float, detector: GuardedDetector) -> None:
    attack = "pgd" if surrogate in ("score", "memory") else "apgd"
    result = advrad.attack(detector, DATA, attack=attack, surrogate=surrogate, steps=12, eps=eps, norm=norm)
    assert_held(detector, result, eps, norm)
    assert any(row.worst != row.clean for row in result.rows)


@pytest.mark.parametrize("attack", ["square", "lowfrequency", "patch"])
def test_other_attacks_stay_inside_the_bounds(attack: str, detector: GuardedDetector) -> None:
    result = advrad.attack(detector, DATA, attack=attack, steps=40 if attack == "square" else 10)
    assert_held(detector, result, EPS, "linf")


@pytest.mark.parametrize("ceiling", [-3.0, 0.0, 0.3, 40.0])
def test_attacks_stay_inside_the_bounds_whatever_the_ceiling(ceiling: float) -> None:
    limited = guarded(ceiling=ceiling)
    assert_held(limited, advrad.attack(limited, DATA, attack="pgd", steps=10), EPS, "linf")


def test_the_suite_stays_inside_the_bounds(suite: tuple[GuardedDetector, AttackResult]) -> None:
    made, result = suite
    assert_held(made, result, EPS, "linf")
    assert not {flag.name for flag in result.flags} & {"black box wins", "bounds broken", "no gradient"}
    held = proven(made, DATA[0])[3:]
    assert held.any() and not held.all(), "both kinds are tested"


def test_the_attack_defeats_the_half_alone_but_not_the_memory_beside_it(
    suite: tuple[GuardedDetector, AttackResult],
) -> None:
    made, pair = suite
    alone = advrad.attack(made.others["half"], DATA, attack="pgd", steps=20)
    assert alone.clean_auroc is not None and alone.clean_auroc > 0.6
    assert alone.robust_auroc is not None and alone.robust_auroc < 0.05
    assert pair.robust_auroc is not None and pair.robust_auroc >= 0.25, "the plain dent stays above all"


def test_defects_that_only_the_attackable_half_sees_can_be_hidden(detector: GuardedDetector) -> None:
    """Not promised, and not so: otherwise the attacks on verdicts would be too weak to mean anything."""
    data = (torch.cat([normals(3, 5), haze(3, 7)]), [0] * 3 + [1] * 3)
    result = advrad.attack(detector, data, attack="pgd", surrogate="verdict", steps=40)
    assert result.verdicts is not None
    assert result.verdicts.clean_found == 3 and result.verdicts.found == 0
    assert result.verdicts.alarms == 3 > result.verdicts.clean_alarms, "every normal image can be made suspected"
    figures = advrad.certify(detector, data, radii=(EPS,))
    assert figures.words is not None and figures.words[EPS].found == 0
    assert result.to_dict()["verdicts"] == {
        "clean_found": 3,
        "found": 0,
        "clean_alarms": result.verdicts.clean_alarms,
        "alarms": 3,
    }


def test_no_normal_image_is_made_proven_defective(detector: GuardedDetector) -> None:
    """Theorem 3: an attacked image is proven defective only if the memory calls the image without the attack so."""
    images = normals(40, 8)
    silent = images[detector.memory.predict_batch(images).scores <= detector.tests[0].threshold]
    assert len(silent) > 30
    objective = make_objective(detector, torch.ones(len(silent)), "memory", torch.Generator())
    point = silent.clone()
    for _ in range(8):
        point = point + EPS / 4 * value_and_gradient(objective, point)[1].sign()
        point = torch.minimum(torch.maximum(point, silent - EPS), silent + EPS).clamp(0, 1)
    words = [found.word for found in detector.verdicts(point, radius=EPS + 1e-6)]
    assert words.count("defective") > 30, "the attack makes the memory speak"
    assert "defective, proven" not in words


def test_the_maximum_hides_no_half_from_the_suite(suite: tuple[GuardedDetector, AttackResult]) -> None:
    """The memory's score that attacks on the memory alone reach is also reached where the other half leads."""
    made, pair = suite
    alone, test = advrad.attack(made.memory, DATA), made.tests[0]
    for one, both in zip(alone.rows[:3], pair.rows[:3], strict=True):
        worst, clean = ((score - test.threshold) * test.slope for score in (one.worst, one.clean))
        assert worst > HIGH + 2 and both.worst >= worst - 0.02 * abs(worst - clean), both.name
    # Following the score alone ends at the ceiling, far below what the memory can be driven to.
    assert all(row.scores["pgd, score, 40 steps"] <= HIGH for row in pair.rows[:3])


def test_every_budget_attacks_every_half(detector: GuardedDetector) -> None:
    names = [attack.name for attack in suite_attacks("quick", detector.surrogates)]
    for half in ("memory", "half", "verdict"):
        assert f"pgd, {half}, 40 steps" in names and f"apgd, {half}, 20 steps" in names


def test_a_noisy_half_is_attacked_over_many_draws_although_the_memory_leads() -> None:
    noisy = guarded(wrap(NoisyContrast(), deterministic=False))
    loud = dents(4, 6)
    found = probe(noisy, loud)
    score = noisy.infer(loud, torch.Generator().manual_seed(1)).scores
    assert torch.equal(score, noisy.infer(loud, torch.Generator().manual_seed(2)).scores), "the memory leads"
    assert not found.deterministic and not found.parts["half"].deterministic and found.parts["memory"].deterministic
    assert found.parts["half"].agreement < 0.3
    for noise in ("unknown", "known"):
        plan = AttackPlan(threat=Threat.of("linf", EPS), attacks=suite_attacks("quick", noisy.surrogates), noise=noise)
        names = [attack.name for attack in applicable_attacks(plan, noisy, found, has_maps=True)[0]]
        assert {"pgd, half, 40 steps, eot 8", "pgd, verdict, 40 steps", "pgd, memory, 40 steps"} <= set(names)
    result = advrad.attack(noisy, DATA, attack="pgd", surrogate="half", steps=4, eot=2)
    assert result.bounds is not None and result.bounds.violations == () and not result.deterministic


def test_a_half_draws_the_same_noise_alone_as_in_the_score() -> None:
    """Otherwise an attacker who knows the noise would follow another function than the one that counts."""
    noisy = guarded(wrap(NoisyContrast(), deterministic=False), wrap(NoisyContrast(), deterministic=False))
    images = haze(3, 7)
    scores = noisy.infer(images, torch.Generator().manual_seed(3)).half_scores
    assert scores is not None
    for place, name in enumerate(("half", "half 2"), start=1):
        alone = noisy.surrogates[name](images, torch.Generator().manual_seed(3))
        assert torch.allclose(alone, surprise(scores[:, place], noisy.tests[place]))


class Failing(Contrast):
    """Gives no number for bright images, and has an infinite derivative where pixels are equal."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        maps = 1e3 * self.maps(images)
        root = (images[:, :, :1, :1] - images[:, :, :1, :1].detach()).abs().sum((1, 2, 3)).sqrt()
        score = maps.flatten(1).amax(1) + root
        return torch.where(images.mean((1, 2, 3)) > 0.4505, math.nan * score, score), maps


def test_a_half_that_an_attack_makes_fail_breaks_nothing() -> None:
    images = torch.cat([normals(4, 5), dents(4, 6, FAINT)])
    images = images - images.mean((1, 2, 3), keepdim=True) + 0.45
    calm = guarded()
    fragile = GuardedDetector(calm.config, calm.memory, {"half": wrap(Failing(), deterministic=True)}).eval()
    bright = (images + EPS).clamp(0, 1)
    output = fragile.predict_batch(bright)
    assert output.defective is not None and output.defective.all() and output.errors[1][0] == "its score is nan"
    assert torch.isfinite(output.scores).all() and (output.scores >= fragile.config.ceiling).all()
    # The gradient of the memory is not spoiled by that of a half that does not decide.
    _, gradient = value_and_gradient(
        make_objective(fragile, torch.ones(4), "score", torch.Generator()), dents(4, 6, 0.2)
    )
    assert (gradient.flatten(1).abs().amax(1) > 0).all()
    for surrogate in ("score", "half", "verdict"):
        data = (images[2:6], [0, 0, 1, 1])
        result = advrad.attack(fragile, data, attack="pgd", surrogate=surrogate, steps=8)
        assert result.bounds is not None and result.bounds.violations == ()


class Raising(Contrast):
    """Ends with an error for images that differ from those of the product."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if bool((images.mean((1, 2, 3)) > 0.4505).any()):
            raise ValueError("too bright")
        return super().forward(images)


def test_an_attack_goes_on_where_a_half_raises_on_every_image() -> None:
    calm = guarded()
    fragile = GuardedDetector(calm.config, calm.memory, {"half": wrap(Raising(), deterministic=True)}).eval()
    images = torch.full((2, 3, SIZE_PX, SIZE_PX), 0.45)
    for attack in ("pgd", "lowfrequency"):
        data = (images, [0, 1])
        result = advrad.attack(fragile, data, attack=attack, surrogate="half", steps=6)
        assert result.bounds is not None and result.bounds.violations == ()
        assert result.rows[0].defective, "an image on which a half fails is never good"


def test_a_half_without_gradients_does_not_end_the_attack_on_the_memory() -> None:
    def blind(images: Tensor) -> tuple[Tensor, Tensor]:
        scores, maps = Contrast()(images.detach())
        return scores, maps

    closed = guarded(wrap(blind, deterministic=True))
    found = probe(closed, DATA[0][2:5])
    assert found.differentiable and not found.parts["half"].differentiable and found.parts["memory"].differentiable
    plan = AttackPlan(threat=Threat.of("linf", EPS), attacks=suite_attacks("quick", closed.surrogates))
    attacks, left_out = applicable_attacks(plan, closed, found, has_maps=True)
    assert "pgd, memory, 40 steps" in [attack.name for attack in attacks] and "pgd, half, 40 steps" in left_out
    flags = [flag for flag in check_detector(closed, DATA[0][2:5]) if flag.name == "no gradient"]
    assert len(flags) == 1 and "no gradient of 'half' reaches the image" in flags[0].words
    result = advrad.attack(closed, DATA, attack="pgd", surrogate="memory", steps=8)
    assert result.bounds is not None and result.bounds.violations == () and result.bounds.reached > 0.3


def test_the_verdict_turns_exactly_at_the_threshold(detector: GuardedDetector) -> None:
    """Thresholds are kept in double precision, scores in single: neither may hide a half that speaks."""
    images = dents(3, 6, FAINT)
    scores = detector.memory.predict_batch(images).scores
    for step, speaks in ((0, False), (-1, True)):
        threshold = float(scores[0])
        if step:
            threshold = float(np.nextafter(np.float32(threshold), np.float32(-1)))
        tests = (detector.tests[0].model_copy(update={"threshold": threshold}), detector.tests[1])
        config = detector.config.model_copy(update={"tests": tests, "ceiling": -5.0})
        moved = GuardedDetector(config, detector.memory, detector.others).eval()
        output, bounds = moved.predict_batch(images), moved.score_bounds(images, 0.0, "linf")
        assert output.speaks is not None and bool(output.speaks[0, 0]) is speaks
        assert bool(output.scores[0] > 0) is speaks
        assert (bounds.lower <= output.scores).all() and (output.scores <= bounds.upper).all()
        assert bounds.words[0] != "good, memory proven" or not speaks


@pytest.mark.parametrize("sides", [(32, 20), (50, 32)])
def test_padding_does_not_widen_what_an_attack_may_do(sides: tuple[int, int]) -> None:
    """The attack is on the image as given; the bounds are those of its padded form."""
    plain = guarded()
    plain.memory.config = plain.memory.config.model_copy(update={"pad": True})
    padded = GuardedDetector(plain.config, plain.memory, plain.others).eval()
    assert padded.config.framing.pad
    images = torch.nn.functional.interpolate(DATA[0], size=sides, mode="bilinear")
    for norm, eps in (("linf", EPS), ("l2", 0.1)):
        result = advrad.attack(padded, (images, DATA[1]), attack="pgd", surrogate="memory", steps=8, eps=eps, norm=norm)
        assert result.bounds is not None and result.bounds.violations == () and result.bounds.reached > 0.1


def test_a_product_that_may_be_found_anywhere_proves_no_image_good(monkeypatch: pytest.MonkeyPatch) -> None:
    open_ended = guarded(ceiling=0.3)
    bounds_of = type(open_ended.memory).score_bounds

    def without_upper(self: Any, *arguments: Any) -> Any:
        found = bounds_of(self, *arguments)
        return replace(found, upper=torch.full_like(found.upper, torch.inf))

    monkeypatch.setattr(type(open_ended.memory), "score_bounds", without_upper)
    figures = advrad.certify(open_ended, DATA, radii=(EPS,))
    assert figures.words is not None and figures.words[EPS].normal["good, memory proven"] == 0
    assert figures.words[EPS].anomalous["defective, proven"] > 0 and figures.certified_auroc[EPS] == 0
    assert figures.rows[0].to_dict()["upper"] == [None]
