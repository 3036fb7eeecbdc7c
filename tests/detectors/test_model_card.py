"""The model card."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
import yaml

from advrad.data.framing import Framing
from advrad.denoisers.lean import LeanConfig
from advrad.detectors.config import Calibration, DetectorConfig
from advrad.detectors.loading import KINDS
from advrad.detectors.model_card import describe_threshold, render
from advrad.detectors.saved import SavedConfig
from advrad.detectors.score_config import NoiseView, ScoreConfig, describe

FIGURES = {
    "image_auroc": 0.98765,
    "image_auroc_ci": [0.91, 0.999],
    "pixel_auroc": None,
    "aupro": 0.5,
    "tpr": 0.75,
    "fpr": 0.04,
    "threshold": 1.25,
    "n_good": 10,
    "n_defect": 4,
    "per_defect": {"scr|atch": {"n": 4, "auroc": 0.98765, "tpr": 0.75}},
}


def config(**changes: object) -> DetectorConfig:
    values: dict[str, object] = {
        "denoiser": LeanConfig(),
        "size_px": 64,
        "score": ScoreConfig(views=(NoiseView(view_px=64, sigma=0.2),)),
        "calibration": Calibration(threshold=1.25, false_alarm_rate=0.05, n=19, heat_low=0.5, heat_high=1.5),
        "training": {
            "plan": {
                "category": "widget",
                "data": "/home/someone/secret",
                "train": {"steps": 40, "batch_size": 8, "seed": 3},
            },
            "reason": "best of all",
            "pictures": {"train": 30, "selection": 5, "calibration": 19},
            "seconds": 90.0,
            "versions": {"advrad": "0.1.0"},
        },
    }
    return DetectorConfig.model_validate(values | changes)


def head_and_body(text: str) -> tuple[dict[str, object], str]:
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


def test_the_header_is_what_the_hub_reads() -> None:
    head, body = head_and_body(render(config()))
    assert head["library_name"] == "advrad"
    assert head["license"] == "apache-2.0"
    assert "anomaly-detection" in head["tags"]
    assert body.lstrip().startswith("# AdvRAD detector for widget\n")


def test_says_when_nothing_was_measured() -> None:
    text = render(config())
    assert "Not evaluated yet" in text
    assert "AUROC" not in text


def test_shows_the_measured_figures_and_what_was_not_measured() -> None:
    text = render(config(figures=FIGURES))
    assert "Not evaluated yet" not in text
    assert "| Image AUROC | 0.9877 (95 % interval 0.9100 to 0.9990) |" in text
    assert "| Pixel AUROC | not measured |" in text
    assert "| Defects found at the threshold (TPR) | 75 % |" in text
    assert "| scr\\|atch | 4 | 0.9877 | 75 % |" in text
    assert "10 good, 4 defective" in text
    assert "Warning" not in text


def test_warnings_are_above_the_figures() -> None:
    text = render(config(figures=FIGURES | {"warnings": ["Brightness alone <b>tells."]}))
    assert text.index("> **Warning.** Brightness alone \\<b>tells.\n") < text.index("| Image AUROC")


def test_shows_threshold_and_training() -> None:
    text = render(config())
    assert "| Threshold | 1.25 |" in text
    assert "19 normal images" in text
    assert "at most 5 %" in text
    assert "30 for training" in text
    assert "best of all" in text
    assert 'AdvRAD.from_pretrained("' in text


def test_lists_the_limits() -> None:
    text = render(config())
    assert "## What it does not promise" in text
    assert "The share of defects found is measured, not guaranteed" in text


def test_names_no_folder_of_the_training_machine() -> None:
    assert "/home" not in render(config())


def test_a_detector_without_threshold_or_history_has_a_card_too() -> None:
    bare = config(calibration=None, training={})
    text = render(bare)
    assert "does not decide" in describe_threshold(bare)
    assert "| Threshold" not in text
    assert bare.training.category == ""
    assert "# AdvRAD detector\n" in text


def test_special_characters_in_a_category_are_escaped() -> None:
    odd = config(training={"plan": {"category": "a|b\n# <script>"}})
    text = render(odd)
    assert "<script>" not in text.replace("\\<script>", "")
    assert "| Product | a\\|b # \\<script> |" in text


def test_the_score_is_described_in_one_line() -> None:
    looks = [NoiseView(view_px=64, sigma=0.2), NoiseView(view_px=32, sigma=0.1)]
    score = ScoreConfig(views=tuple(looks), pooling=0.002)
    assert describe(score) == (
        "scales averaged, level absolute, normalisation none, filter 3 px, mean of the top 0.2%; 32+64 px;"
        " noise 0.1, 0.2"
    )


def closed_form(**changes: object) -> SavedConfig:
    values = {
        "framing": Framing.square(64),
        "describe": lambda: ["patches of 7 x 7 cells", "maximum over two | members"],
    }
    known = {
        name: getattr(config(**changes), name) for name in ("calibration", "robust_calibration", "training", "figures")
    }
    return cast(SavedConfig, SimpleNamespace(kind="closed_form", **known, **values))


def test_a_closed_form_says_what_it_is_and_what_is_proven() -> None:
    head, body = head_and_body(render(closed_form()))
    assert head["library_name"] == "advrad"
    assert "Nothing is trained." in body and "trained for one product" in body
    assert 'advrad.load_detector("path/to/this/folder")' in body and "AdvRAD.from_pretrained" not in body
    assert "## What is proven" in body and "--certify --norm linf --radius 2/255" in body
    assert "| Score | patches of 7 x 7 cells |" in body and "|  | maximum over two \\| members |" in body
    assert "19 normal images, each compared with the others" in body and "at most 5 %" in body
    assert "this is not a proof" not in body and "does not say that every defect is found" in body


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ((0, 0, 20), "20 in memory; 20 of them set the threshold"),
        ((35, 0, 19), "54 in memory; 19 of them set the threshold"),
        ((67, 0, 33), "67 in memory; 33 others set the threshold"),
        ((30, 5, 19), "35 for the memory, 19 others for the threshold"),
    ],
    ids=["few", "at most 64", "many", "chosen beside a learned denoiser"],
)
def test_a_closed_form_says_what_its_images_are_used_for(counts: tuple[int, int, int], words: str) -> None:
    images = dict(zip(("train", "selection", "calibration"), counts, strict=True))
    assert f"| Normal images | {words} |" in render(closed_form(training={"pictures": images}))


def test_a_learned_detector_claims_no_proof() -> None:
    text = render(config())
    assert "## What is proven" not in text and "this is not a proof" in text
    assert "| Detector | AdvRAD |" in text and "denoiser lean" in text


def test_certified_figures_are_shown_apart() -> None:
    text = render(closed_form(figures={"certified_linf": {"2/255": 0.96}}))
    assert "Not evaluated yet" in text and "Image AUROC" not in text
    assert "| linf 2/255 | 0.9600 |" in text and "no attack within the radius" in text
    both = render(closed_form(figures=FIGURES | {"certified_linf": {"2/255": 0.96}, "certified_l2": {"0.2": 0.9}}))
    assert "| Image AUROC | 0.9877" in both and "| l2 0.2 | 0.9000 |" in both


def test_the_threshold_under_attack_is_shown_with_its_promise() -> None:
    exact = {"threshold": 2.5, "false_alarm_rate": 0.05, "radius": 2 / 255, "norm": "linf", "n": 20}
    text = render(closed_form(guarantee=exact))
    assert "| Threshold under attack | 2.5 |" in text
    assert "| Its false-alarm rate | at most 5 %, after any linf perturbation up to 2/255 |" in text
    assert "under attack" not in render(closed_form())


def test_every_kind_of_model_folder_has_a_card() -> None:
    for kind in KINDS.keys() - {"exported"}:  # whose card is tested in test_exported_card
        given = closed_form()
        given.kind = kind  # type: ignore[misc]
        assert "## How to use it" in render(given)


def test_what_is_not_recorded_has_no_row() -> None:
    text = render(config(training={"plan": {"category": "widget", "train": {"seed": 3}}}))
    assert "| Seed | 3 |" in text and "None" not in text
