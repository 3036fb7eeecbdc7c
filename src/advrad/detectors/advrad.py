"""The detector: a denoiser, a score and a threshold, in one object that saves, loads, scores and decides."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from huggingface_hub import ModelHubMixin
from torch import Tensor, nn

from advrad.data.images import read_resized
from advrad.data.records import MAX_PIXELS
from advrad.data.transforms import resize
from advrad.denoisers.base import Denoiser
from advrad.denoisers.factory import build_denoiser
from advrad.denoisers.sampling import GradientPath
from advrad.detectors import model_folder as hub
from advrad.detectors.config import Calibration, DetectorConfig
from advrad.detectors.conformal import conformal_threshold
from advrad.detectors.model_folder import load_folder, save_folder
from advrad.detectors.scoring import MapStatistics, NoiseView, ScoreConfig, look_maps, smooth, standardise
from advrad.errors import CheckpointError, ConfigError, NotCalibratedError
from advrad.utils.precision import takes_bfloat16

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the detector says of one image.

    Attributes:
        score: larger is more anomalous.
        threshold: the calibrated threshold.
        defective: the verdict: score > threshold.
        score_map: (size, size), where the score comes from; smoothed to show defects as a whole.
        recon: (size, size, 3) in about [0, 1], the image as it would be without defects.
        path: the file, if the image came from one.
    """

    score: float
    threshold: float
    defective: bool
    score_map: Floats
    recon: Floats
    path: Path | None = None


class AdvRAD(
    nn.Module,
    ModelHubMixin,
    library_name="advrad",
    tags=["anomaly-detection", "adversarial-robustness", "diffusion", "advrad"],
    license="apache-2.0",
    repo_url="",
):
    """Adversarially robust anomaly detector.

    Args:
        denoiser: trained.
        config: of the detector; its denoiser part must describe ``denoiser``.
        statistics: one per error map of the score.

    Raises:
        ConfigError: a look does not suit the denoiser, or the statistics are not those of the score's maps.

    Source: Cao, Lin, Chen, "Adversarially Robust Industrial Anomaly Detection Through Diffusion Model".
    """

    def __init__(self, denoiser: Denoiser, config: DetectorConfig, statistics: Sequence[MapStatistics]) -> None:
        super().__init__()
        sizes = config.score.map_sizes
        if len(statistics) != len(sizes):
            raise ConfigError(f"score: {len(sizes)} error maps but {len(statistics)} statistics")
        for look in config.score.looks:
            if look.view_px % denoiser.multiple_px:
                raise ConfigError(
                    f"score: a look at {look.view_px} px does not suit the denoiser; it must be a multiple of"
                    f" {denoiser.multiple_px} px"
                )
        for size, part in zip(sizes, statistics, strict=True):
            if not part.mean.shape == part.spread.shape == (1, 1, size, size):
                raise ConfigError(f"score: the statistics of an error map of {size} px have another size")
        # As in training: another layout in memory rounds differently, and is slower.
        self.denoiser = denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.detector_config = config.model_copy(
            update={
                "locations": tuple(part.location for part in statistics),
                "scales": tuple(part.scale for part in statistics),
                "ceilings": tuple(part.ceiling for part in statistics),
            }
        )
        for index, part in enumerate(statistics):
            self.register_buffer(f"mean_{index}", part.mean)
            self.register_buffer(f"spread_{index}", part.spread)

    # --- scoring: pure functions of the images, differentiable; the caller decides on grad mode and autocast ---

    @property
    def size_px(self) -> int:
        """Side of the square at which images enter."""
        return self.detector_config.size_px

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def examine(self, images: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Scores, score maps and reconstructions in one go.

        Args:
            images: (b, 3, h, w) float in [0, 1], b >= 0; any size, resized to :attr:`size_px` inside.
            generator: source of all noise; rows share each draw, so that row i depends on row i only.

        Returns:
            scores (b,), score maps (b, 1, size, size), reconstructions (b, 3, size, size). Each score is the
            mean over error maps of ``(pooled - location) / scale``. Differentiable in ``images``.

        Raises:
            ConfigError: ``images`` has the wrong shape.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ConfigError(f"images: expected (b, 3, h, w), got {tuple(images.shape)}")
        config = self.detector_config.score
        images = resize(images, self.size_px)
        scores = images.new_zeros(images.shape[0])
        score_map, recon = torch.zeros_like(images[:, :1]), torch.zeros_like(images)
        if not images.shape[0]:
            return scores, score_map, recon  # networks take no empty batch
        count = len(config.map_sizes)
        for look in config.looks:
            members, look_recon = self.members(images, look, config, generator)
            recon = recon + resize(look_recon, self.size_px) / len(config.looks)
            for part, maps in members:
                scores = scores + part / count
                score_map = score_map + resize(maps, self.size_px) / count
        return scores, smooth(score_map, config.map_filter_px), recon

    def members(
        self,
        images: Tensor,
        look: NoiseView,
        config: ScoreConfig,
        generator: torch.Generator,
        path: GradientPath = "exact",
    ) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """What one look adds to the score.

        Args:
            images: (b, 3, size, size) float in [0, 1].
            look: one of the score's.
            config: the score, or one that differs from it in draws and steps alone.
            generator: source of all noise.
            path: of the gradients, see :func:`advrad.denoisers.sampling.reconstruct`.

        Returns:
            For each of its error maps, finest first, the score (b,) and the map (b, 1, h, w), standardised; and the
            reconstruction (b, 3, h, w).
        """
        errors, recon = look_maps(self.denoiser, images, look, config, generator, path)
        members = [standardise(maps, self.normal(look, index), config) for index, maps in enumerate(errors)]
        return members, recon

    def normal(self, look: NoiseView, index: int) -> MapStatistics:
        """What an error map of normal images looks like.

        Args:
            look: one of the score's.
            index: of the map among those of the look, finest first.
        """
        config = self.detector_config
        index += config.score.looks.index(look) * (len(config.score.map_sizes) // len(config.score.looks))
        return MapStatistics(
            getattr(self, f"mean_{index}"),
            getattr(self, f"spread_{index}"),
            config.locations[index],
            config.scales[index],
            config.ceilings[index],
        )

    def score(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Anomaly scores (b,), differentiable in ``images``; see :meth:`examine`."""
        return self.examine(images, generator)[0]

    def error_map(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Score maps (b, 1, size, size), differentiable in ``images``; see :meth:`examine`."""
        return self.examine(images, generator)[1]

    def reconstruct(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Reconstructions (b, 3, size, size), the mean over looks, unclamped; see :meth:`examine`."""
        return self.examine(images, generator)[2]

    forward = score

    # --- deciding: the edge, where gradients end ---

    @property
    def calibration(self) -> Calibration:
        """Threshold and provenance.

        Raises:
            NotCalibratedError: there is none.
        """
        if self.detector_config.calibration is None:
            raise NotCalibratedError(
                "the detector has no threshold, so it does not decide; calibrate it on normal images first"
                " (AdvRAD.calibrate, or train with enough normal images for --false-alarm-rate)"
            )
        return self.detector_config.calibration

    def arithmetic(self, enabled: bool = True) -> torch.autocast:
        """The arithmetic that verdicts are made in; float32 where not enabled."""
        bf16 = takes_bfloat16(self.detector_config.precision, self.device)
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bf16 and enabled)

    @contextlib.contextmanager
    def _edge(self) -> Iterator[None]:
        """Evaluation mode, no gradients, and the arithmetic that verdicts are made in."""
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad(), self.arithmetic():
                yield
        finally:
            self.train(was_training)

    def measure(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """:meth:`examine` as :meth:`predict` does it: without gradients, with the detector's own noise seed.

        Args:
            images: (b, 3, h, w) float in [0, 1].

        Returns:
            As :meth:`examine`, on the CPU; the same for any batch size, on a GPU up to rounding.
        """
        # One at a time on a CPU: nothing is lost there, and kernels that depend on the batch size cannot show.
        parts = []
        with self._edge():
            for part in torch.split(images, 1 if self.device.type == "cpu" else len(images)):
                generator = torch.Generator().manual_seed(self.detector_config.noise_seed)
                parts.append([result.float().cpu() for result in self.examine(part.to(self.device), generator)])
        scores, maps, recon = (torch.cat(results) for results in zip(*parts, strict=True))
        return scores, maps, recon

    def predict(
        self, inputs: Tensor | str | Path | Iterable[str | Path], batch_size: int = 8, max_pixels: int = MAX_PIXELS
    ) -> Iterator[Prediction]:
        """Score images and decide.

        Args:
            inputs: (b, 3, h, w) float in [0, 1], or one path, or paths.
            batch_size: images at a time; changes the results as little as in :meth:`measure`.
            max_pixels: bound on each image file.

        Yields:
            One prediction per image, in order, as it is made.

        Raises:
            NotCalibratedError: there is no threshold.
            ImageError: a file cannot be read.
        """
        calibration = self.calibration
        if isinstance(inputs, (str, Path)):
            inputs = [inputs]
        for images, paths in _batches(inputs, batch_size, self.size_px, max_pixels):
            scores, maps, recon = self.measure(images)
            for row, path in enumerate(paths):
                score = float(scores[row])
                yield Prediction(
                    score=score,
                    threshold=calibration.threshold,
                    defective=score > calibration.threshold,
                    score_map=maps[row, 0].numpy(),
                    recon=recon[row].permute(1, 2, 0).numpy(),
                    path=path,
                )

    def calibrate(
        self, normals: Iterable[Tensor], false_alarm_rate: float = 0.05, source: dict[str, Any] | None = None
    ) -> None:
        """Set the threshold from normal images that nothing else was learnt from.

        Args:
            normals: batches (b, 3, h, w) in [0, 1].
            false_alarm_rate: share of normal images that may be called defective.
            source: provenance, kept with the threshold.

        Raises:
            ConfigError: too few images for the rate.
        """
        scores, peaks = [], []
        for images in normals:
            batch_scores, maps, _ = self.measure(images)
            scores += batch_scores.tolist()
            peaks += maps.amax((1, 2, 3)).tolist()
        threshold = conformal_threshold(scores, false_alarm_rate)
        calibration = Calibration(
            threshold=threshold,
            false_alarm_rate=false_alarm_rate,
            n=len(scores),
            heat_low=float(np.median(peaks)),
            heat_high=conformal_threshold(peaks, false_alarm_rate) + 1e-6,
            source=source or {},
        )
        self.detector_config = self.detector_config.model_copy(update={"calibration": calibration})

    # --- the model folder ---

    def _save_pretrained(self, save_directory: Path) -> None:
        # The mixin writes a card only where there is none, so one of an earlier model would stay.
        (save_directory / "README.md").unlink(missing_ok=True)
        save_folder(save_directory, self.detector_config.model_dump(mode="json"), dict(self.state_dict()))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> AdvRAD:
        """Load a model folder, or one from the hub.

        The mixin's own reading of ``config.json`` is passed over: it knows neither our words for damage nor
        that ``denoiser`` in it is a configuration.

        Args:
            pretrained_model_name_or_path: folder as saved, or a hub id.
            options: ``map_location`` and, for the hub, ``revision``, ``cache_dir``, ``force_download``,
                ``local_files_only``, ``token``.

        Raises:
            CheckpointError: missing, damaged, foreign, or of a newer format.
            ConfigError: an option or a configuration key is unknown.
        """
        return cls._from_pretrained(model_id=str(pretrained_model_name_or_path), **options)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        map_location: str = "cpu",
        **unknown: Any,
    ) -> AdvRAD:
        if unknown:
            raise ConfigError(f"from_pretrained: {', '.join(sorted(unknown))} is not known; remove it")
        folder = Path(model_id)
        if not folder.exists():
            folder = hub.download(model_id, revision, cache_dir, force_download, local_files_only, token)
        values, tensors = load_folder(folder)
        where = str(folder / "config.json")
        return cls.assemble(DetectorConfig.parse(values, where), tensors, where).to(map_location).eval()

    @classmethod
    def assemble(cls, config: DetectorConfig, tensors: Mapping[str, Tensor], where: str) -> AdvRAD:
        """Put a detector together from what was saved of it.

        Args:
            config: of the detector.
            tensors: its ``state_dict``.
            where: the configuration was saved, for messages.

        Raises:
            CheckpointError: configuration and tensors do not belong together.
            ConfigError: the configuration contradicts itself.
        """
        numbers = (config.locations, config.scales, config.ceilings)
        if any(len(values) != len(config.score.map_sizes) for values in numbers):
            raise CheckpointError(f"{where}: locations, scales or ceilings do not match the score's error maps")
        try:
            statistics = [
                MapStatistics(tensors[f"mean_{i}"], tensors[f"spread_{i}"], *values)
                for i, values in enumerate(zip(*numbers, strict=True))
            ]
            detector = cls(build_denoiser(config.denoiser), config, statistics)
            detector.load_state_dict(tensors)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(
                f"{where}: weights and configuration do not belong together ({str(error).splitlines()[0]}); retrain"
            ) from None
        return detector

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The model card, filled with the measured figures."""
        from huggingface_hub import ModelCard

        from advrad.detectors.model_card import render

        return ModelCard(render(self.detector_config))


def _batches(
    inputs: Tensor | Iterable[str | Path], batch_size: int, size_px: int, max_pixels: int
) -> Iterator[tuple[Tensor, list[Path | None]]]:
    if isinstance(inputs, Tensor):
        for part in torch.split(inputs, batch_size):
            yield part, [None] * len(part)
        return
    images: list[Tensor] = []
    paths: list[Path | None] = []
    for path in inputs:
        images.append(read_resized(Path(path), size_px, max_pixels))
        paths.append(Path(path))
        if len(images) == batch_size:
            yield torch.stack(images), paths
            images, paths = [], []
    if images:
        yield torch.stack(images), paths
