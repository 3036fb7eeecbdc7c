"""Predictions of a guarded detector: words, halves, reasons and heat maps, in one pass over each image."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import guarded_run
import numpy as np
import pytest
import torch
from PIL import Image

from advrad.certificates.options import PredictionCertificateOptions
from advrad.certificates.prediction import ProvenPrediction, prediction_certifier
from advrad.data.images import read_image
from advrad.detectors.closed_form import ClosedFormDetector
from advrad.detectors.guarded import GuardedDetector
from advrad.detectors.guarded_config import AttackableConfig
from advrad.detectors.verdicts import Verdict
from advrad.detectors.wrappers import wrap
from advrad.errors import ConfigError
from advrad.inference.evaluation import evaluate, write_scores
from advrad.inference.heatmaps import GREEN
from advrad.inference.prediction import PredictionRecord, predict_paths
from advrad.inference.prediction_table import write_table


@pytest.fixture(scope="module")
def product(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return guarded_run.write_product(tmp_path_factory.mktemp("product"))


@pytest.fixture(scope="module")
def detector() -> GuardedDetector:
    return guarded_run.named()


def records(found: Iterator[object]) -> list[PredictionRecord]:
    kept = list(found)
    assert all(isinstance(record, PredictionRecord) for record in kept)
    return kept  # type: ignore[return-value]


def test_a_prediction_says_who_spoke_and_what_is_proven(detector: GuardedDetector, product: Path) -> None:
    paths = [product / "test" / name / "000.png" for name in ("dent", "haze", "good")]
    dent, haze, good = records(predict_paths(detector, paths))
    assert (dent.word, haze.word) == (Verdict.PROVEN_DEFECTIVE, Verdict.SUSPECTED)
    assert (dent.defective, haze.defective, good.defective) == (True, True, False)
    assert [half.speaks for half in haze.halves] == [False, True]
    values = json.loads(json.dumps(haze.to_dict(), allow_nan=False))
    assert (values["verdict"], values["defective"]) == ("suspected", True)
    memory, features = values["halves"]
    assert set(memory) == {"name", "score", "threshold", "p_value", "speaks", "lower", "upper"}
    assert set(features) == {"name", "score", "threshold", "p_value", "speaks"}
    assert features["p_value"] == pytest.approx(1 / 60) and features["score"] > features["threshold"]
    assert haze.score <= 0 < dent.score and "reason" not in values


def test_one_pass_over_an_image_gives_scores_words_and_maps(
    detector: GuardedDetector, product: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = {"predict": 0, "bounds": 0}
    predict, bounds = GuardedDetector.predict_batch, ClosedFormDetector.score_bounds

    def counted_predict(self: GuardedDetector, images: torch.Tensor) -> object:
        calls["predict"] += len(images)
        return predict(self, images)

    def counted_bounds(self: ClosedFormDetector, *arguments: object) -> object:
        calls["bounds"] += 1
        return bounds(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(GuardedDetector, "predict_batch", counted_predict)
    monkeypatch.setattr(ClosedFormDetector, "score_bounds", counted_bounds)
    paths = sorted((product / "test" / "dent").iterdir())
    records(predict_paths(detector, paths, out=tmp_path / "maps", batch_size=2))
    assert calls == {"predict": len(paths), "bounds": len(paths)}


def test_a_heat_map_shows_both_halves_with_a_legend_and_the_proven_area(
    detector: GuardedDetector, product: Path, tmp_path: Path
) -> None:
    path = product / "test" / "dent" / "000.png"
    certifier, _ = prediction_certifier(detector, PredictionCertificateOptions(norm="linf"))
    (plain,) = records(predict_paths(detector, [path], out=tmp_path / "plain"))
    (proven,) = records(predict_paths(detector, [path], out=tmp_path / "proven", certifier=certifier))
    assert plain.heat_map is not None and proven.heat_map is not None
    source, one, other = (read_image(file) for file in (path, plain.heat_map, proven.heat_map))
    assert one.shape[0] > source.shape[0] and one.shape[1] == source.shape[1]
    height = source.shape[0]

    def green(image: np.ndarray) -> bool:
        return bool((np.abs(image[:height] - GREEN) < 0.01).all(axis=2).any())

    assert (green(one), green(other)) == (False, True)


def test_certificates_are_about_the_memory(detector: GuardedDetector, product: Path) -> None:
    certifier, warnings = prediction_certifier(detector, PredictionCertificateOptions(norm="linf"))
    assert warnings == []
    dent, haze = records(
        predict_paths(detector, [product / "test" / name / "000.png" for name in ("dent", "haze")], certifier=certifier)
    )
    for record, verdict in ((dent, "proven defective"), (haze, "not proven")):
        proof = record.certificate
        assert isinstance(proof, ProvenPrediction)
        assert (proof.verdict, proof.half, proof.threshold) == (verdict, "memory", detector.tests[0].threshold)
        assert record.to_dict()["certified_half"] == "memory"
        assert proof.lower <= record.halves[0].score <= proof.upper
    # The memory finds haze good within a smaller radius; that says nothing about the other half, which suspects it.
    assert haze.word is Verdict.SUSPECTED and 0 < haze.certificate.reach < 2 / 255  # type: ignore[union-attr]
    assert str(haze.certificate).startswith("memory proven to linf 0.")


def test_a_given_threshold_is_refused(detector: GuardedDetector, product: Path) -> None:
    with pytest.raises(ConfigError, match=r"decides by a test for each half.*advrad calibrate") as caught:
        list(predict_paths(detector, [product / "test" / "good" / "000.png"], threshold=1.0))
    assert caught.value.option == "threshold"


def test_a_half_that_fails_makes_the_image_defective_with_the_reason(product: Path, tmp_path: Path) -> None:
    made = guarded_run.named()
    inner = next(iter(made.others.values()))

    def half(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        output = inner.infer(images, torch.Generator())
        assert output.anomaly_maps is not None
        dark = images.amax((1, 2, 3)) < 0.2
        return torch.where(dark, torch.full_like(output.scores, torch.nan), output.scores), output.anomaly_maps

    config = made.config.model_copy(update={"others": (AttackableConfig(name="features"),)})
    detector = GuardedDetector(config, made.memory, {"features": wrap(half, deterministic=True)}).eval()
    Image.new("RGB", (32, 32), (12, 12, 12)).save(tmp_path / "dark.png")
    good = product / "test" / "good" / "000.png"
    dark, normal = records(predict_paths(detector, [tmp_path / "dark.png", good], batch_size=2, out=tmp_path / "maps"))
    assert dark.defective and dark.reason == "features failed: its score is nan"
    values = dark.to_dict()
    assert values["halves"][1]["score"] is None and values["halves"][1]["error"] == "its score is nan"
    json.dumps(values, allow_nan=False)
    assert normal.reason is None and not normal.defective
    write_table(tmp_path / "v.csv", [dark.to_dict(), normal.to_dict()])
    head, first, _ = (tmp_path / "v.csv").read_text().splitlines()
    for column in ("memory_score", "memory_p_value", "features_speaks", "features_error", "reason", "defective"):
        assert column in head.split(","), column
    assert "halves" not in head and "nan" not in first.replace("its score is nan", "")


def test_an_evaluation_counts_either_half_and_each(detector: GuardedDetector, product: Path, tmp_path: Path) -> None:
    result = evaluate(detector, product)
    assert result.guarded is not None and result.half_scores is not None and result.defective is not None
    predicted = records(predict_paths(detector, [record.path for record in result.records]))
    assert result.defective.tolist() == [record.defective for record in predicted]
    assert (result.tpr, result.per_defect["haze"].tpr, result.threshold) == (1.0, 1.0, 0.0)
    memory, features = result.guarded.halves["memory"], result.guarded.halves["features"]
    assert (memory.tpr, features.tpr, result.guarded.tpr_all, result.guarded.suspected_tpr) == (0.5, 1.0, 0.5, 0.5)
    values = result.to_dict()["guarded"]
    assert values["halves"]["features"]["false_alarm_rate"] == pytest.approx(0.05) and values["joint"] is True
    # The words are those that predict prints, and add up to all images.
    said = Counter((record.word, label) for record, label in zip(predicted, result.labels.tolist(), strict=True))
    for name, label in (("normal", 0), ("anomalous", 1)):
        assert values["words"][name] == {str(word): said[str(word), label] for word in Verdict}
    assert values["words"]["anomalous"]["defective, proven"] > 0 and values["radius"] == detector.config.radius
    write_scores(tmp_path / "s.jsonl", result)
    rows = [json.loads(line) for line in (tmp_path / "s.jsonl").read_text().splitlines()]
    assert [list(row["halves"]) for row in rows] == [["memory", "features"]] * len(rows)
    assert rows[0]["halves"]["memory"] == pytest.approx(predicted[0].halves[0].score)
