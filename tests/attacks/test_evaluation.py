"""The evaluation of robustness: its guarantees hold whatever an attack returns."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from broken_detectors import Noisy, Reseeding, VeryNoisy, honest, labelled_images

from advrad.attacks import batch_attack
from advrad.attacks.base import AttackInput, AttackOutput
from advrad.attacks.evaluation import ImageSet, RobustnessResult, evaluate_robustness
from advrad.attacks.plan import AttackPlan, AttackSpec
from advrad.attacks.registry import ATTACKS
from advrad.attacks.selection import AGREEMENT
from advrad.attacks.suite import SUITES, suite_attacks
from advrad.attacks.summary import summarize
from advrad.attacks.threat import NORMS, Norm, Threat
from advrad.detectors.base import AnomalyDetector, SurrogateKind, SurrogateLoss
from advrad.detectors.wrappers import wrap
from advrad.errors import ConfigError, DataError, DetectorError, OutputError
from advrad.utils.progress import CallbackReporter

every = pytest.mark.parametrize(("name", "norm"), list(itertools.product(ATTACKS, NORMS)))
EPS = {"linf": 0.02, "l2": 0.3}


def plan(
    norm: Norm = "linf", name: str = "pgd", steps: int = 8, eps: float | None = None, **values: object
) -> AttackPlan:
    member = {key: values.pop(key) for key in ("restarts", "surrogate", "eot", "transfer") if key in values}
    return AttackPlan(
        threat=Threat(norm=norm, eps=EPS[norm] if eps is None else eps),
        attacks=(AttackSpec(attack=name, steps=steps, **member),),
        **values,
    )


def scores_of(found: RobustnessResult) -> np.ndarray:
    return np.array([row.worst for row in found.rows])


@every
def test_the_worst_is_in_ball_and_box_and_is_scored_again(name: str, norm: Norm, tmp_path: Path) -> None:
    target, given = honest(), labelled_images()
    before = given.images.clone()
    found = evaluate_robustness(
        target, given, plan(norm, name, steps=60 if name == "square" else 8), tmp_path, save_images=True
    )
    assert torch.equal(given.images, before)
    for row, sign in zip(found.rows, np.where(given.labels == 0, 1, -1), strict=True):
        assert row.distance <= EPS[norm] + 1e-7
        assert sign * row.worst > sign * row.clean, "it gained nothing"
    assert found.worst_maps is not None and found.clean_maps is not None
    # What the row says is what the detector says of the image that was kept.
    recomputed = np.sort(found.worst_maps.reshape(len(found.rows), -1))[:, -8:].mean(1)
    np.testing.assert_allclose(scores_of(found), recomputed, rtol=1e-5)
    assert len(list((tmp_path / "pictures").glob("*.png"))) == len(found.rows)


@every
def test_radius_zero_is_clean(name: str, norm: Norm, tmp_path: Path) -> None:
    found = evaluate_robustness(wrap(Noisy()), labelled_images(4), plan(norm, name, eps=0.0), tmp_path)
    assert all(row.worst == row.clean and row.by == "" and row.distance == 0 for row in found.rows)


@every
def test_the_seed_decides_and_the_batch_does_not(name: str, norm: Norm, tmp_path: Path) -> None:
    target, given = wrap(Noisy()), labelled_images(5)
    first, again, other = (
        scores_of(
            evaluate_robustness(target, given, plan(norm, name, steps=4, seed=seed), tmp_path / f"{i}", batch_size=size)
        )
        for i, (seed, size) in enumerate([(1, 5), (1, 2), (2, 5)])
    )
    np.testing.assert_allclose(first, again, rtol=1e-4)
    assert not np.allclose(first, other, rtol=1e-4)


def test_the_values_of_an_attack_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def liar(task: AttackInput) -> AttackOutput:
        far = task.images + 0.5  # out of the ball and of the box
        return AttackOutput(far, torch.full((len(far),), 1e9), far, *torch.ones(2, len(far), dtype=torch.long))

    monkeypatch.setitem(batch_attack.ATTACKS, "pgd", liar)
    found = evaluate_robustness(honest(), labelled_images(), plan(), tmp_path)
    assert all(row.distance <= EPS["linf"] + 1e-7 for row in found.rows)
    assert all(abs(row.worst) < 10 for row in found.rows)


def test_an_attack_that_finds_nothing_worse_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def helper(task: AttackInput) -> AttackOutput:
        found = ATTACKS["apgd"](replace(task, objective=lambda x: -task.objective(x), stop_above=None))
        return replace(found, last=found.images)

    monkeypatch.setitem(batch_attack.ATTACKS, "pgd", helper)
    found = evaluate_robustness(honest(), labelled_images(), plan(), tmp_path)
    assert all(row.worst == row.clean and row.by == "" for row in found.rows)


def test_nan_from_an_attack_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        batch_attack,
        "make_objective",
        lambda *args, **kwargs: lambda images: images.sum((1, 2, 3)) * torch.nan,
    )
    found = evaluate_robustness(honest(), labelled_images(), plan(), tmp_path)
    assert np.isfinite(scores_of(found)).all()


def test_known_noise_is_the_stronger_attack(tmp_path: Path) -> None:
    noisy = wrap(Noisy(), noise_seed=11)
    given = labelled_images()
    known = evaluate_robustness(noisy, given, plan(steps=20, noise="known"), tmp_path / "known")
    clean = noisy.infer(given.images[:1], torch.Generator().manual_seed(11)).scores.detach()
    assert known.rows[0].clean == pytest.approx(float(clean))
    unknown = evaluate_robustness(noisy, given, plan(steps=20), tmp_path / "unknown")

    def gained(found: RobustnessResult) -> float:
        return float(np.mean([abs(row.worst - row.clean) for row in found.rows]))

    assert gained(known) > gained(unknown)


def test_an_attack_stops_where_nothing_more_can_be_gained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given, strong = labelled_images(8), plan(steps=30, eps=0.1)
    early = evaluate_robustness(honest(), given, strong, tmp_path / "early")
    noisy = evaluate_robustness(wrap(Noisy()), given, strong, tmp_path / "noisy")
    monkeypatch.setattr(batch_attack, "MARGIN", np.inf)
    whole = evaluate_robustness(honest(), given, strong, tmp_path / "whole")
    areas = [summarize(found, None, None, None).robust_auroc for found in (early, whole)]
    assert areas == [0.0, 0.0]
    assert sum(row.gradients for row in early.rows) < 0.7 * sum(row.gradients for row in whole.rows)
    # A lucky draw of a detector's noise ends nothing.
    assert all(row.gradients == 30 for row in noisy.rows)


def test_a_suite_is_never_weaker_than_its_members(tmp_path: Path) -> None:
    target, given = wrap(Noisy(), threshold=0.1), labelled_images(8)
    threat = Threat(norm="linf", eps=0.02)
    members = tuple(AttackSpec(attack=m.attack, surrogate=m.surrogate, steps=10) for m in SUITES["standard"][1:])
    whole = evaluate_robustness(target, given, AttackPlan(threat=threat, attacks=members), tmp_path / "suite")
    area = summarize(whole, 0.1, None, None).robust_auroc
    for index, member in enumerate(members):
        alone = evaluate_robustness(target, given, AttackPlan(threat=threat, attacks=(member,)), tmp_path / f"{index}")
        assert area <= summarize(alone, 0.1, None, None).robust_auroc
    after = list(summarize(whole, 0.1, None, None).robust_auroc_after.values())
    assert after == sorted(after, reverse=True) and after[-1] == area


def test_images_ranked_wrongly_are_skipped_without_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, given = honest(), labelled_images()
    threat = Threat(norm="linf", eps=0.4)
    members = (AttackSpec(attack="pgd", steps=20), AttackSpec(attack="apgd", steps=20))
    saving = evaluate_robustness(target, given, AttackPlan(threat=threat, attacks=members), tmp_path / "saving")
    monkeypatch.setattr(batch_attack.GainLimits, "of", lambda *_: batch_attack.GainLimits(np.inf, -np.inf))
    sparing_nothing = evaluate_robustness(target, given, AttackPlan(threat=threat, attacks=members), tmp_path / "all")
    assert sum(row.gradients for row in saving.rows) < sum(row.gradients for row in sparing_nothing.rows)
    first, second = (summarize(each, 0.5, None, None).robust_auroc for each in (saving, sparing_nothing))
    assert first == second


def test_restarts_find_no_less(tmp_path: Path) -> None:
    target, given = honest(), labelled_images()
    one = evaluate_robustness(target, given, plan(steps=3), tmp_path / "1")
    five = evaluate_robustness(target, given, plan(steps=3, restarts=5), tmp_path / "5")
    signs = np.where(given.labels == 0, 1, -1)
    assert (signs * scores_of(five) >= signs * scores_of(one)).all()
    assert sum(row.gradients for row in five.rows) > 3 * sum(row.gradients for row in one.rows)


def test_transfer_uses_another_detector_and_is_scored_by_this_one(tmp_path: Path) -> None:
    target, other, given = honest(0), honest(3), labelled_images()
    direct = evaluate_robustness(target, given, plan(steps=10), tmp_path / "direct")
    moved = evaluate_robustness(target, given, plan(steps=10, transfer=True), tmp_path / "moved", source=other)
    signs = np.where(given.labels == 0, 1, -1)
    assert (signs * scores_of(moved)).mean() < (signs * scores_of(direct)).mean()
    with pytest.raises(ConfigError, match="source: is needed"):
        evaluate_robustness(target, given, plan(transfer=True), tmp_path / "none")


# --- attacks that do not suit ----------------------------------------------------------------------------------------


def test_without_gradients_square_is_used(tmp_path: Path) -> None:
    blind = wrap(lambda images: images.square().mean((1, 2, 3)).detach())
    found = evaluate_robustness(blind, labelled_images(4), plan(), tmp_path)
    assert "no gradient" in found.left_out["pgd, score, 8 steps"]
    assert all(row.gradients == 0 and row.queries > 0 for row in found.rows)
    assert all(name.startswith("square") for row in found.rows for name in row.scores)
    result = summarize(found, None, None, None)
    assert list(result.robust_auroc_after.values()) == [result.robust_auroc], "what was done is what is shown"


def test_attacks_that_need_maps_or_surrogates_are_left_out(tmp_path: Path) -> None:
    bare = wrap(lambda images: images.square().mean((1, 2, 3)))
    members = (
        AttackSpec(attack="pgd", steps=2),
        AttackSpec(attack="pgd", surrogate="top", steps=2),
        *SUITES["quick"][:1],
    )
    found = evaluate_robustness(
        bare, labelled_images(4), AttackPlan(threat=Threat(norm="l2", eps=0.1), attacks=members), tmp_path
    )
    assert set(found.left_out) == {members[1].name, members[2].name}


def test_suites_are_named_and_fixed() -> None:
    def losses(**kinds: SurrogateKind) -> dict[str, SurrogateLoss]:
        return {
            name: SurrogateLoss(lambda images, generator: images.mean((1, 2, 3)), kind) for name, kind in kinds.items()
        }

    assert suite_attacks("quick", losses(part="component")) == SUITES["quick"]
    plain = suite_attacks("quick")
    assert [attack.surrogate for attack in plain] == ["score", "score", "logsumexp", "score", "score"]
    assert [attack.steps for attack in plain] == [attack.steps for attack in SUITES["quick"]]
    pgd = AttackSpec(attack="pgd", surrogate="logit", steps=20)
    assert suite_attacks("quick", losses(logit="unsaturated")) == (*plain, pgd)
    assert suite_attacks("quick", losses(logit="surrogate")) == plain
    assert suite_attacks("standard", losses(short="one_step"))[-1].surrogate == "short"
    assert suite_attacks("standard", losses(bypass="bpda"))[-1].surrogate == "bypass"
    *first, last = plain
    halves = (
        AttackSpec(attack="pgd", surrogate="half", steps=40),
        AttackSpec(attack="apgd", surrogate="half", steps=20),
    )
    assert suite_attacks("quick", losses(half="part", logit="unsaturated")) == (*first, *halves, pgd, last)
    whole = suite_attacks("full", losses(half="part", logit="surrogate"))
    assert [one.surrogate for one in whole[len(SUITES["full"]) - 1 :]] == ["half", "half", "logit", "score"]
    both = losses(fine="scale", part="component")
    assert len(suite_attacks("full", both)) == len(SUITES["full"]) + 2
    assert suite_attacks("quick", both) == SUITES["quick"]
    with pytest.raises(ConfigError, match="budget endless"):
        suite_attacks("endless")
    for attacks in SUITES.values():
        assert len({attack.name for attack in attacks}) == len(attacks)


def test_the_suite_averages_over_noise_where_gradients_disagree(tmp_path: Path) -> None:
    """And nowhere else: without noise, or with little, averaging finds nothing more."""
    averaging = next(member for member in suite_attacks("quick") if member.if_noisy)
    members = (AttackSpec(attack="pgd", steps=4), averaging)
    todo = AttackPlan(threat=Threat(norm="linf", eps=0.02), attacks=members)
    noisy = evaluate_robustness(wrap(VeryNoisy()), labelled_images(4), todo, tmp_path / "noisy")
    assert not noisy.left_out and noisy.properties.agreement < AGREEMENT
    assert all(averaging.name in row.scores for row in noisy.rows)
    assert all(row.gradients == 4 + averaging.steps * averaging.eot for row in noisy.rows)
    less_noisy = evaluate_robustness(wrap(Noisy()), labelled_images(4), todo, tmp_path / "less_noisy")
    assert "one is enough" in less_noisy.left_out[averaging.name] and less_noisy.properties.agreement >= AGREEMENT
    deterministic = evaluate_robustness(honest(), labelled_images(4), todo, tmp_path / "deterministic")
    assert deterministic.left_out == {averaging.name: "there is no noise to average over"}
    known = evaluate_robustness(
        wrap(VeryNoisy()), labelled_images(4), todo.model_copy(update={"noise": "known"}), tmp_path / "known"
    )
    assert known.left_out == {averaging.name: "the noise is known"}


def test_a_detector_is_probed_on_images_of_both_classes() -> None:
    given = labelled_images(8)
    torch.testing.assert_close(given.examples, given.images[[0, 2, 1, 3]])
    alone = ImageSet(given.images[:1], given.labels[:1], given.names[:1])
    torch.testing.assert_close(alone.examples, given.images[:1])


# --- interruptions, several processes, folders -----------------------------------------------------------------------


def test_an_interrupted_run_is_resumed_with_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, given = wrap(Noisy()), labelled_images(6)
    whole = evaluate_robustness(target, given, plan(), tmp_path / "whole", batch_size=2)
    calls = []

    def stopping(done: int, total: int) -> None:
        calls.append(done)
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_robustness(target, given, plan(), tmp_path / "part", batch_size=2, progress=CallbackReporter(stopping))
    assert len(list((tmp_path / "part" / "rows").glob("*.json"))) == 4
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "part" / "rows").glob("*.json")}
    rest = evaluate_robustness(
        target,
        given,
        plan(),
        tmp_path / "part",
        batch_size=2,
        progress=CallbackReporter(lambda done, _: calls.append(done)),
    )
    assert calls == [0, 2, 4, 4, 6]
    assert all(path.stat().st_mtime_ns == then for path, then in kept.items())
    np.testing.assert_allclose(scores_of(rest), scores_of(whole), rtol=1e-5)


def test_processes_share_the_images(tmp_path: Path) -> None:
    target, given = honest(), labelled_images(5)
    whole = evaluate_robustness(target, given, plan(), tmp_path / "whole")
    with pytest.raises(OutputError, match="a row is damaged"):
        evaluate_robustness(target, given, plan(), tmp_path / "two", process=(1, 2))  # the other one has not come
    assert len(list((tmp_path / "two" / "rows").glob("*.json"))) == 2
    together = evaluate_robustness(target, given, plan(), tmp_path / "two", process=(0, 2))
    np.testing.assert_allclose(scores_of(together), scores_of(whole), rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda: {"plan": plan(steps=9)}, "members"),
        (lambda: {"plan": plan(eps=0.5)}, "threat"),
        (lambda: {"images": labelled_images(8, seed=3)}, "pictures"),
        (lambda: {"identity": "another"}, "detector"),
    ],
)
def test_a_folder_of_another_run_is_refused(change: Callable[[], dict[str, object]], word: str, tmp_path: Path) -> None:
    values: dict[str, object] = {"images": labelled_images(), "plan": plan(), "identity": "one"}
    detector: AnomalyDetector = honest()
    evaluate_robustness(detector, folder=tmp_path, **values)  # type: ignore[arg-type]
    with pytest.raises(OutputError, match=f"with other {word}.*choose another output folder"):
        evaluate_robustness(detector, folder=tmp_path, **values | change())  # type: ignore[arg-type]


def test_a_damaged_row_or_plan_is_named(tmp_path: Path) -> None:
    evaluate_robustness(honest(), labelled_images(4), plan(), tmp_path)
    (tmp_path / "rows" / "00002.json").write_text("{")
    with pytest.raises(OutputError, match=r"00002\.json: a row is damaged"):
        evaluate_robustness(honest(), labelled_images(4), plan(), tmp_path)
    (tmp_path / "plan.json").write_text("nonsense")
    with pytest.raises(OutputError, match=r"plan\.json: is damaged"):
        evaluate_robustness(honest(), labelled_images(4), plan(), tmp_path)


def test_without_images_there_is_nothing_to_attack(tmp_path: Path) -> None:
    nothing = ImageSet(torch.zeros(0, 3, 16, 16), np.zeros(0, np.int64), ())
    with pytest.raises(DataError, match="no image"):
        evaluate_robustness(honest(), nothing, plan(), tmp_path)


def test_invalid_scores_are_found_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DetectorError, match="not a finite number"):
        evaluate_robustness(
            wrap(lambda images: images.mean((1, 2, 3)) * torch.nan), labelled_images(), plan(), tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


# --- figures ---------------------------------------------------------------------------------------------------------


def test_the_figures_follow_from_the_rows(tmp_path: Path) -> None:
    given = labelled_images(8)
    found = evaluate_robustness(honest(), given, plan(steps=12, eps=0.06), tmp_path)
    masks = np.zeros((8, 16, 16), bool)
    masks[1::2, 4:8, 4:8] = True
    result = summarize(found, 0.06, masks, np.ones(8, bool))
    json.dumps(result.figures_to_dict(), allow_nan=False)
    clean, worst = np.array([row.clean for row in found.rows]), scores_of(found)
    bad = given.labels == 1

    def area(good: np.ndarray, defective: np.ndarray) -> float:
        return float(np.mean([(d > g) + 0.5 * (d == g) for d in defective for g in good]))

    assert result.clean_auroc == pytest.approx(area(clean[~bad], clean[bad]))
    assert result.robust_auroc == pytest.approx(area(worst[~bad], worst[bad]))
    assert result.robust_auroc_anomalous_only == pytest.approx(area(clean[~bad], worst[bad]))
    assert result.robust_auroc_normal_only == pytest.approx(area(worst[~bad], clean[bad]))
    assert result.robust_auroc <= min(result.robust_auroc_anomalous_only, result.robust_auroc_normal_only)
    assert result.robust_tpr == float((worst[bad] > 0.06).mean()) <= result.clean_tpr
    assert result.robust_fpr == float((worst[~bad] > 0.06).mean()) >= result.clean_fpr
    assert 0 <= result.robust_pixel_auroc <= 1 and result.clean_aupro is not None
    low, high = result.robust_auroc_ci
    assert low <= result.robust_auroc <= high
    assert result.gradients == sum(row.gradients for row in found.rows) > 0
    assert sum(result.found_by.values()) + result.harmless == 8


def test_what_cannot_be_measured_is_none(tmp_path: Path) -> None:
    found = evaluate_robustness(
        wrap(lambda images: images.square().mean((1, 2, 3))), labelled_images(4), plan(), tmp_path
    )
    result = summarize(found, None, None, None)
    assert result.robust_pixel_auroc is None and result.robust_tpr is None
    assert result.robust_auroc is not None


def test_a_reseeding_detector_looks_deterministic(tmp_path: Path) -> None:
    """Its AUROC is high; only the sanity checks find the fault."""
    found = evaluate_robustness(wrap(Reseeding()), labelled_images(4), plan(), tmp_path)
    assert found.properties.deterministic
