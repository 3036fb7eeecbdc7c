"""The card of an export."""

from __future__ import annotations

import toy_exports

from advrad.detectors.model_card import render


def test_the_card_says_how_far_the_export_is_from_pytorch_and_what_is_proven() -> None:
    text = render(toy_exports.config_of(engine="openvino"))
    for words in (
        "# AdvRAD detector, exported",
        "| Precision | float32 |",
        "INFERENCE_PRECISION_HINT f32, EXECUTION_MODE_HINT ACCURACY",
        "| Compared on | 39 calibration images, in openvino |",
        "| Largest difference of scores | 2e-07 relative (train/good/007.png); 0.001 allowed |",
        "| Other verdicts | 0 |",
        "## What is proven\n\nNothing is proven about a toy.",
        "Set from the scores of 39 normal images, as the exported graph computes them",
        "rounded to 8 bits",
    ):
        assert words in text, words


def test_a_threshold_of_pytorch_is_named_as_such() -> None:
    text = render(toy_exports.config_of(rescored=False))
    assert "each compared with the others, as PyTorch computes them" in text
    assert "| Threshold set from | PyTorch's scores" in text


def test_the_card_of_a_guarded_export_promises_no_proof() -> None:
    text = render(toy_exports.config_of(guarded=True))
    assert "decides with proof" not in text and "defective, proven" not in text
    assert "An export does not compute the bounds that would prove it." in text
    assert "| Test of contrast | score above 0.9; false alarms at most 5 % |" in text


def test_an_export_without_a_comparison_says_so() -> None:
    assert "| Compared on | no images |" in render(toy_exports.config_of(parity=None))
