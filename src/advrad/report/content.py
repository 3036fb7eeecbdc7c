"""The content of a report, gathered from an evaluation and the model folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from advrad.data.images import read_image, read_pixels8
from advrad.data.records import MAX_PIXELS
from advrad.data.transforms import to_tensor
from advrad.detectors.exported import ExportedDetector, ExportedGuardedDetector
from advrad.detectors.exported_config import halves_of
from advrad.detectors.guarded import GuardedDetector
from advrad.detectors.model_card import describe_threshold
from advrad.detectors.saved import SavedConfig, SavedDetector
from advrad.inference.evaluation import EvaluationResult
from advrad.inference.half_maps import draw_half_maps
from advrad.inference.heatmaps import GREEN, draw_heat_map, outline
from advrad.report.comparison import ComparedFigures, OtherDetector
from advrad.report.evaluation_report import Candidate, GalleryItem, ReportContent, pick_gallery
from advrad.report.halves import Halves
from advrad.report.proofs import ImageProofs
from advrad.report.registration import RegisteredImage, draw_registration, registered_views
from advrad.report.stored_results import AttackSummary, CurveSummary, R, read_certificates, read_results
from advrad.training.log import read_log

if TYPE_CHECKING:
    from torch import Tensor

    from advrad.detectors.engines import Pixels

Floats = npt.NDArray[np.float32]

_SHOWN_CANDIDATES = 20
# Images of each class on which a registration is drawn.
_REGISTERED = 3
# Parts of a configuration that the report shows elsewhere, or that are long lists of numbers.
_NOT_SHOWN = frozenset(
    (
        *("calibration", "robust_calibration", "guarantee", "training", "figures", "tests"),
        *("locations", "scales", "ceilings", "held_out"),
    )
)


def report_content(
    evaluation: EvaluationResult,
    detector: SavedDetector,
    run_folder: Path | None,
    *,
    others: Sequence[OtherDetector] = (),
    max_pixels: int = MAX_PIXELS,
    value_range: float | None = None,
) -> ReportContent:
    """Gather the content of a report.

    Args:
        evaluation: Evaluation of ``detector``.
        detector: Detector; it scores the images of the gallery again, for their reconstructions.
        run_folder: Model folder with the training log and the results of attacks and certifications; None for none.
        others: Other detectors of the product to compare with.
        max_pixels: Largest number of pixels of an image file.
        value_range: Value of white in the image files, > 0; None if the files or the training tell it.

    Raises:
        ImageError: An image of the gallery cannot be read any more.
        DataError: The training log or a stored result is damaged.

    Example:
        Needs a trained model.

        >>> detector = advrad.AdvRAD.from_pretrained("run")  # doctest: +SKIP
        >>> evaluation = advrad.evaluate(detector, "images")  # doctest: +SKIP
        >>> write_report(Path("report.html"), report_content(evaluation, detector, Path("run")))  # doctest: +SKIP
    """
    config = detector.config
    misses, alarms, finds = pick_gallery(evaluation.labels, evaluation.scores)
    tried = [Candidate(name, value) for name, value in config.training.tried]
    description = tuple(detector.describe())
    chosen = {config.training.winner, *description}
    selected = next((candidate.name for candidate in tried if candidate.name in chosen), None)
    shown = tried[:_SHOWN_CANDIDATES]
    shown += [candidate for candidate in tried[_SHOWN_CANDIDATES:] if candidate.name == selected]

    def stored(pattern: str, kind: type[R]) -> tuple[R, ...]:
        return read_results(run_folder, pattern, evaluation.category, kind) if run_folder else ()

    certificates = read_certificates(run_folder, evaluation.category) if run_folder else ()
    proofs = ImageProofs(detector)
    gallery = Gallery(evaluation, detector, proofs, others, max_pixels, value_range)
    compared = [ComparedFigures.of(detector, evaluation, certificates)]
    compared += [ComparedFigures.of(other.detector, other.evaluation) for other in others]

    return ReportContent(
        category=evaluation.category,
        labels=evaluation.labels,
        scores=evaluation.scores,
        defects=evaluation.defects,
        warnings=evaluation.warnings,
        threshold=evaluation.threshold,
        threshold_source=describe_threshold(config),
        advice="" if evaluation.advice is None else evaluation.advice.text,
        image_auroc=evaluation.image_auroc,
        image_auroc_interval=evaluation.image_auroc_ci,
        pixel_auroc=evaluation.pixel_auroc,
        aupro=evaluation.aupro,
        misses=gallery.items(misses),
        false_alarms=gallery.items(alarms),
        finds=gallery.items(finds),
        training=read_log(run_folder / "training") if run_folder else (),
        candidates=tuple(shown),
        selected=selected,
        candidate_metric="AUROC of held-out normal images against synthetic defects",
        selection_reason=config.training.reason,
        attacks=stored("attacks/*/result.json", AttackSummary),
        curves=stored("attacks/curve-*.json", CurveSummary),
        certificates=certificates,
        proven_radius=proofs.area_radius,
        description=description,
        registered=_registered(evaluation, detector, max_pixels, value_range),
        compared=tuple(compared) if others else (),
        halves=None if (halves := halves_of(config)) is None else Halves.of(halves, evaluation),
        configuration=_shown(config.model_dump(mode="json")),
        provenance=_provenance(config),
    )


@dataclass(frozen=True)
class Gallery:
    """Makes the images that a report shows.

    Args:
        evaluation: Evaluation of the detector.
        detector: Detector.
        proofs: What is proven of the images.
        others: Other detectors, whose anomaly maps are shown as well.
        max_pixels: Largest number of pixels of an image file.
        value_range: Value of white in the image files; None if the files or the training tell it.
    """

    evaluation: EvaluationResult
    detector: SavedDetector
    proofs: ImageProofs
    others: Sequence[OtherDetector] = ()
    max_pixels: int = MAX_PIXELS
    value_range: float | None = None

    def items(self, indices: Iterable[int]) -> tuple[GalleryItem, ...]:
        """Make the images of some indices.

        Args:
            indices: Places of the images in the evaluation.

        Returns:
            The images with anomaly map, outlines of the true defect and of the proven area, score and proof.

        Raises:
            ImageError: An image cannot be read any more.
        """
        return tuple(self._item(index) for index in indices)

    def _item(self, index: int) -> GalleryItem:
        evaluation, framing = self.evaluation, self.detector.config.framing.with_white(self.value_range)
        record = evaluation.records[index]
        image = read_image(record.path, self.max_pixels, at_least_px=framing)
        # Map, reconstruction and proof come from the image as it was scored, so that the panels match.
        pixels, score = to_tensor(image), float(evaluation.scores[index])
        scored = framing.apply(pixels[None])
        drawn = self._drawn(self.detector, image, scored, record.path)
        heat, recon = drawn.heat, drawn.reconstruction
        judged = score if drawn.memory_score is None else drawn.memory_score
        proof = self.proofs.prove(evaluation.names[index], judged, pixels, scored[0])
        if heat is not None and proof is not None:
            heat = outline(heat, proof.area[framing.window(*image.shape[:2])], GREEN, broken=True)
        others = []
        for other in self.others:
            found = self._drawn(other.detector, image, other.detector.config.framing.apply(pixels[None]), record.path)
            recon = found.reconstruction if recon is None else recon
            if found.heat is not None:
                others.append((other.name, found.heat))
        return GalleryItem(
            name="/".join(record.path.parts[-2:]),
            label=int(evaluation.labels[index]),
            defect=record.defect,
            score=score,
            image=image,
            heat=heat,
            reconstruction=recon,
            mask=_mask(evaluation, index),
            others=tuple(others),
            proof="" if proof is None else proof.text,
            proven_share=None if proof is None else float(proof.area[framing.window(*image.shape[:2])].mean()),
            halves=drawn.halves,
            defective=None if evaluation.half_scores is None else bool(evaluation.half_scores.defective[index]),
            word=drawn.word,
        )

    def _drawn(self, detector: SavedDetector, image: Floats, scored: Tensor, path: Path) -> _Drawn:
        """Draw what a detector makes of an image file, read as the detector takes it."""
        if not isinstance(detector, ExportedDetector):
            return _drawn(detector, image, scored)
        return _drawn_export(detector, image, read_pixels8(path, detector.framing, self.max_pixels, self.value_range))


@dataclass(frozen=True, slots=True)
class _Drawn:
    """What a detector makes of an image, (h, w, 3) each; None where there is none.

    Attributes:
        heat: Image with the anomaly map.
        reconstruction: Reconstruction.
        halves: Names of the halves of a guarded detector, and the image with the map of each.
        word: Verdict of a guarded detector in words.
        memory_score: Score of its memory.
    """

    heat: Floats | None = None
    reconstruction: Floats | None = None
    halves: tuple[tuple[str, Floats], ...] = ()
    word: str = ""
    memory_score: float | None = None


def _drawn(detector: SavedDetector, image: Floats, scored: Tensor) -> _Drawn:
    """Draw what a detector makes of an image, from the image as it is scored, (1, 3, h', w')."""
    window = detector.config.framing.window(*image.shape[:2])
    if isinstance(detector, GuardedDetector) and detector.config.tests:
        (verdict,) = detector.verdicts(scored)
        maps = [one[window].numpy() for one in verdict.half_maps]
        quiet = np.zeros_like(maps[0])
        alone = [draw_half_maps(image, [quiet, one] if place else [one]) for place, one in enumerate(maps)]
        return _Drawn(
            draw_half_maps(image, maps),
            halves=tuple(zip(detector.config.names, alone, strict=True)),
            word=verdict.word,
            memory_score=verdict.halves[0].score,
        )
    output, calibration = detector.predict_batch(scored), detector.config.calibration
    maps_of, recons = output.anomaly_maps, output.reconstructions
    heat = None
    if calibration is not None and maps_of is not None:
        heat = draw_heat_map(image, maps_of[0, 0][window].numpy(), calibration)
    return _Drawn(heat, None if recons is None else recons[0].clamp(0, 1).permute(1, 2, 0)[window].numpy())


def _drawn_export(detector: ExportedDetector, image: Floats, pixels: Pixels) -> _Drawn:
    """Draw what an export makes of an image, from its pixels in 8 bits, (h, w, 3)."""
    window = detector.framing.window(*image.shape[:2])
    if not isinstance(detector, ExportedGuardedDetector):
        anomaly_map = detector.run([pixels])[0].anomaly_map
        return _Drawn(draw_heat_map(image, anomaly_map[window], detector.calibration))
    (verdict,) = detector.verdicts([pixels])
    return _Drawn(
        draw_heat_map(image, verdict.anomaly_map[window].numpy(), detector.calibration),
        word=verdict.word,
        memory_score=verdict.halves[0].score,
    )


def _registered(
    evaluation: EvaluationResult, detector: SavedDetector, max_pixels: int, value_range: float | None
) -> tuple[RegisteredImage, ...]:
    """Draw where each registration of the detector finds the parts, on the first test images of each class."""
    views = registered_views(detector)
    if not views:
        return ()
    chosen = [index for label in (0, 1) for index in np.flatnonzero(evaluation.labels == label)[:_REGISTERED].tolist()]
    found, framing = [], detector.config.framing.with_white(value_range)
    for record in (evaluation.records[index] for index in chosen):
        image, name = read_image(record.path, max_pixels, at_least_px=framing), record.path.parts[-2:]
        found += [draw_registration("/".join(name), image, view) for view in views]
    return tuple(found)


def _mask(evaluation: EvaluationResult, index: int) -> npt.NDArray[np.bool_] | None:
    """The ground-truth mask of an image, if it is known."""
    if evaluation.masks is None or evaluation.mask_known is None or not evaluation.mask_known[index]:
        return None
    mask: npt.NDArray[np.bool_] = evaluation.masks[index]
    return mask


def _shown(values: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration, or of its parts, that is shown as it is."""
    return {
        name: _shown(value) if isinstance(value, Mapping) else value
        for name, value in values.items()
        if name not in _NOT_SHOWN
    }


def _provenance(config: SavedConfig) -> dict[str, Any]:
    loop = config.training.loop.model_dump(mode="json", include={"seed", "steps", "batch_size", "learning_rate"})
    recorded = config.training.to_dict()
    shown = {"pictures": "images", "seconds": "seconds", "candidates": "candidates", "versions": "versions"}
    rest: dict[str, Any] = {shown[name]: value for name, value in recorded.items() if name in shown}
    if config.calibration is not None:
        rest["calibration"] = {
            "images": config.calibration.n,
            "false_alarm_rate": config.calibration.false_alarm_rate,
        }
    return {"category": config.training.category, **loop, **rest}
