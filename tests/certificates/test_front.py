"""Certification from Python: any detector, on images from any source."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from toy_datasets import make_mvtec
from toy_models import TWO_VIEWS, detector

import advrad
from advrad.certificates.radii import parse_radii
from advrad.certificates.results import CertificationResult
from advrad.detectors.loading import load_target
from advrad.errors import ConfigError, DataError
from advrad.utils.formatting import radius_text
from advrad.utils.progress import CallbackReporter

LABELS = [0, 0, 1, 1]


def images(size_px: int = 16) -> Tensor:
    """Two normal images, and two with a bright square."""
    pixels = torch.full((4, 3, size_px, size_px), 0.2)
    pixels[2:, :, 4:12, 4:12] = 0.8
    return pixels


def brightness(images: Tensor) -> Tensor:
    return images.mean((1, 2, 3))


def test_tensors_and_a_function_are_enough_and_nothing_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told: list[tuple[int, int]] = []
    result = advrad.certify(
        brightness,
        (images(), LABELS),
        radii=(0.1,),
        n_samples=60,
        progress=CallbackReporter(lambda *done: told.append(done)),
    )
    assert isinstance(result, CertificationResult) and result.method == "percentile" and result.sigma == 0.1
    assert result.certified_auroc == {0.1: 1.0} and result.radii == (0.1,)
    assert result.folder is None and not list(tmp_path.iterdir())
    assert (result.n_normal, result.n_anomalous, result.size) == (2, 2, (16, 16))
    assert [row.label for row in result.rows] == LABELS and told[-1] == (4, 4)
    assert result.verdicts is None and result.threshold is None and result.attacked == ()


def test_the_result_has_the_json_fields_of_the_command(tmp_path: Path) -> None:
    wrapped = advrad.wrap(brightness, deterministic=True, threshold=0.3)
    result = advrad.certify(wrapped, (images(), LABELS), radii=(0.1, 1), n_samples=60, sigma=1, output=tmp_path / "out")
    stored = json.loads((tmp_path / "out" / "result.json").read_text())
    assert stored == json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert set(stored) == {
        *("method", "sigma", "quantile", "draws", "confidence", "seed", "threshold", "n_good", "n_defect"),
        *("clean_auroc", "certified_auroc", "verdicts", "median_radius", "curve", "seconds", "size", "rounding_l2"),
        *("attacked", "category", "folder", "versions", "meaning", "notes", "warnings", "norm", "radii"),
    }
    assert list(stored["certified_auroc"]) == list(stored["verdicts"]) == ["0.1", "1"]
    assert set(stored["verdicts"]["1"]) == {
        *("right", "wrong", "abstained", "certified", "early_certified", "draws_saved"),
    }
    assert set(stored["curve"]) == {"radii", "certified_auroc", "certified_right", "certified_wrong"}
    assert stored["folder"] == str(tmp_path / "out") and stored["size"] == [16, 16]
    # Stored results are read back as they are, apart from the rows, which have a file of their own.
    assert CertificationResult.parse(stored, "result.json").to_dict() == result.to_dict()


def test_a_result_without_a_threshold_has_no_verdicts_in_json() -> None:
    values = advrad.certify(brightness, (images(), LABELS), radii=(0.1,), n_samples=60).to_dict()
    assert not {"verdicts", "median_radius"} & set(values) and set(values["curve"]) == {"radii", "certified_auroc"}


def test_save_writes_the_result_and_a_line_per_image(tmp_path: Path) -> None:
    result = advrad.certify(brightness, (images(), LABELS), radii=(0.1,), n_samples=60)
    result.save(tmp_path / "new" / "folder")
    assert json.loads((tmp_path / "new" / "folder" / "result.json").read_text())["n_defect"] == 2
    rows = [json.loads(line) for line in (tmp_path / "new" / "folder" / "rows.jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows] == [row.name for row in result.rows]
    assert set(rows[0]) == {
        *("name", "label", "score", "lower", "upper", "verdicts", "early", "early_draws", "radius", "seconds"),
    }


def test_the_result_is_shown_in_one_readable_line() -> None:
    wrapped = advrad.wrap(brightness, deterministic=True, threshold=0.3)
    shown = repr(advrad.certify(wrapped, (images(), LABELS), radii=(0.1,), n_samples=60))
    assert shown.startswith(
        "CertificationResult(method='percentile', norm='l2', images=2 normal + 2 anomalous, confidence="
    )
    assert "certified_auroc={0.1: 1.0000}" in shown and "median_radius=" in shown and "\n" not in shown


def test_a_model_in_memory_and_its_folder_are_certified_alike(run: Path, data: Path, tmp_path: Path) -> None:
    options = {"radii": (0.02, 0.05), "n_samples": 64, "limit": 4}
    loaded = load_target(str(run))
    found = [
        advrad.certify(each, data, output=tmp_path / name, **options)  # type: ignore[arg-type]
        for name, each in (("folder", loaded), ("model", detector(TWO_VIEWS)), ("white-box", loaded.detector))
    ]
    assert {result.method for result in found} == {"two-path"} and found[0].category == data.name
    assert found[0].curve == found[1].curve == found[2].curve
    inside = advrad.certify(loaded, data, **options)  # type: ignore[arg-type]
    assert inside.folder is not None and Path(inside.folder).parent == run / "certificates"
    assert inside.curve == found[0].curve


def test_files_and_the_same_tensors_have_the_same_certificates(data: Path) -> None:
    from advrad.data.labelled import load_labelled

    loaded = load_labelled(data, 32, masks=False)
    wrapped = advrad.wrap(brightness, size_px=32, deterministic=True)
    kept = [
        advrad.certify(wrapped, source, radii=(0.1,), n_samples=60, sigma=0.5).rows
        for source in (data, (loaded.images, loaded.labels))
    ]
    files, tensors = (np.array([row.score for row in rows]) for rows in kept)
    np.testing.assert_allclose(files, tensors, atol=0.02)  # the noise follows from the names, which differ


def test_image_files_keep_their_own_sizes_on_request(tmp_path: Path) -> None:
    large = make_mvtec(tmp_path, "large", good=1, defects={"scratch": 1}, size=48)
    result = advrad.certify(brightness, str(large), radii=(0.1,), n_samples=60, own_size=True)
    assert result.size == "own" and result.rounding_l2 == pytest.approx((3 * 48 * 48 / 12) ** 0.5 / 255)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"radii": ()}, "at least one"),
        ({"radii": (-0.1,)}, "radius -0.1: must be 0 or more"),
        ({"n_samples": 1}, "n_samples 1: must be at least 2"),
        ({"confidence": 1.0}, "confidence 1: must be above 0 and below 1"),
        ({"method": "two-path"}, "method two-path: certifies AdvRAD detectors only"),
        ({"method": "guess"}, "method guess: is unknown; choose auto, bounds, percentile, two-path"),
        ({"own_size": True}, "own_size: applies to image files"),
        ({"size_px": 32}, "size_px: applies to image files"),
        ({"limit": 1}, "limit 1: must be at least 2"),
        ({"radii": (9.0,), "sigma": 0.1}, "radius 9: is 90 standard deviations of the noise"),
    ],
)
def test_arguments_that_do_not_fit_are_named(options: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        advrad.certify(brightness, (images(), LABELS), **{"radii": (0.1,), **options})  # type: ignore[arg-type]
    assert words in str(caught.value) and "--" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lambda: (images(), [0, 0, 0, 0]), "both classes are needed"),
        (lambda: (images(24), LABELS), "the detector takes 16 x 16 px"),
    ],
)
def test_images_that_do_not_fit_are_refused(data: Callable[[], tuple[Tensor, list[int]]], words: str) -> None:
    wrapped = advrad.wrap(brightness, size_px=16, deterministic=True)
    with pytest.raises(DataError, match=words):
        advrad.certify(wrapped, data(), radii=(0.1,), n_samples=60)


def test_radii_are_read_from_text() -> None:
    assert parse_radii("0.2, 0.1,0.2") == (0.2, 0.1)
    assert parse_radii("1/255,2/255", "linf") == (1 / 255, 2 / 255)
    for text in ("0.1,", "1/0", "1/x", "nan", "inf"):
        with pytest.raises(ConfigError, match="must be a number or a fraction, such as 2/255"):
            parse_radii(text)
    for text, norm, words in (
        ("2", "linf", "radius 2: must be between 0 and 1"),
        ("1/255,-1/255", "linf", "radius -1/255: must be between 0 and 1"),
        ("-1", "l2", "radius -1: must be 0 or more"),
        (" ", "linf", "radius: holds no radius; give some, such as 1/255,2/255"),
    ):
        with pytest.raises(ConfigError) as caught:
            parse_radii(text, norm)  # type: ignore[arg-type]
        assert words in str(caught.value)


def test_radii_are_written_as_they_are_given() -> None:
    assert [radius_text(level / 255, "linf") for level in (0, 0.5, 2, 16)] == ["0", "0.5/255", "2/255", "16/255"]
    assert radius_text(0.013, "linf") == "0.013" and radius_text(2 / 255, "l2") == "0.00784314"
