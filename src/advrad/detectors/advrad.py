"""AdvRAD: a denoiser, a score and a threshold in one module that scores, decides, saves and loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from huggingface_hub import ModelHubMixin
from torch import Tensor, nn

from advrad.data.array_checks import check_images, check_layout
from advrad.data.transforms import resize
from advrad.denoisers.base import Denoiser
from advrad.denoisers.factory import build_denoiser
from advrad.denoisers.sampling import GradientPath, Noise
from advrad.detectors.config import DetectorConfig
from advrad.detectors.exported_folder import is_export
from advrad.detectors.model_folder import CONFIG_NAME, download, load_folder, save_folder, write_card
from advrad.detectors.outputs import AdvRADOutput
from advrad.detectors.saved import SavedMixin
from advrad.detectors.score_config import NoiseView, ScoreConfig
from advrad.detectors.scoring import MapStatistics, smooth, standardise, view_error_maps
from advrad.errors import CheckpointError, ConfigError
from advrad.utils.precision import takes_bfloat16

if TYPE_CHECKING:
    from huggingface_hub import ModelCard


class AdvRAD(
    SavedMixin,
    nn.Module,
    ModelHubMixin,
    library_name="advrad",
    tags=["anomaly-detection", "adversarial-robustness", "diffusion", "advrad"],
    license="apache-2.0",
    repo_url="",
):
    """Adversarially robust anomaly detector.

    Args:
        denoiser: Trained denoiser.
        config: Configuration; its denoiser part must describe ``denoiser``.
        statistics: Statistics over normal images, one for each error map of the score.

    Raises:
        ConfigError: The size of a view does not suit the denoiser, or the statistics do not match the score's maps.

    Example:
        Needs a trained model folder.

        >>> detector = AdvRAD.from_pretrained("bottle")  # doctest: +SKIP
        >>> [prediction.defective for prediction in detector.predict(["part.png"])]  # doctest: +SKIP
        [False]

    Source: Cao, Lin, Chen, "Adversarially Robust Industrial Anomaly Detection Through Diffusion Model".
    """

    without_threshold = (
        "calibrate it on normal images (AdvRAD.calibrate, or train with more normal images or a higher false-alarm"
        " rate)"
    )

    def __init__(self, denoiser: Denoiser, config: DetectorConfig, statistics: Sequence[MapStatistics]) -> None:
        super().__init__()
        sizes = config.score.map_sizes
        if len(statistics) != len(sizes):
            raise ConfigError(f"score: {len(sizes)} error maps but {len(statistics)} statistics")
        for view in config.score.views:
            if view.view_px % denoiser.multiple_px:
                raise ConfigError(
                    f"score: a view of {view.view_px} px does not suit the denoiser; it must be a multiple of"
                    f" {denoiser.multiple_px} px"
                )
        for size, part in zip(sizes, statistics, strict=True):
            if not part.mean.shape == part.spread.shape == (1, 1, size, size):
                raise ConfigError(f"score: the statistics of an error map of {size} px have another size")
        # The memory layout of training: any other rounds differently and is slower.
        self.denoiser: Denoiser = denoiser.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
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

    # --- Scoring: functions of the images alone, differentiable. The caller decides on gradients and precision. ---

    @property
    def size_px(self) -> int:
        """Side of the square to which images are resized, in pixels."""
        return self.detector_config.size_px

    @property
    def image_size_px(self) -> int:
        """Side of the square to which image files are scaled, in pixels: :attr:`size_px`."""
        return self.size_px

    @property
    def config(self) -> DetectorConfig:
        """The configuration, under the name that every saved detector has for it."""
        return self.detector_config

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.denoiser.device

    def infer(self, images: Tensor, generator: Noise) -> AdvRADOutput:
        """Compute scores, anomaly maps and reconstructions.

        Args:
            images: Images, (b, 3, h, w), float in [0, 1], b >= 0; resized to :attr:`size_px`.
            generator: Source of all noise; rows share each draw, so that row i depends on row i only.

        Returns:
            The output. Each score is the mean over error maps of ``(pooled - location) / scale``. Differentiable in
            ``images``.

        Raises:
            DataError: ``images`` has the wrong shape or type. Values are not checked: attacks and certificates call
                this often.
        """
        check_layout(images)
        config = self.detector_config.score
        images = self.framing.apply(images.to(self.get_buffer("mean_0").dtype))
        scores = images.new_zeros(images.shape[0])
        anomaly_maps, recons = torch.zeros_like(images[:, :1]), torch.zeros_like(images)
        if not images.shape[0]:
            return AdvRADOutput(scores, anomaly_maps, recons)  # networks refuse an empty batch
        count = len(config.map_sizes)
        for view in config.views:
            parts, view_recons = self.view_scores(images, view, config, generator)
            recons = recons + resize(view_recons, self.size_px) / len(config.views)
            for part, maps in parts:
                scores = scores + part / count
                anomaly_maps = anomaly_maps + resize(maps, self.size_px) / count
        return AdvRADOutput(scores, smooth(anomaly_maps, config.map_filter_px), recons)

    def view_scores(
        self,
        images: Tensor,
        view: NoiseView,
        config: ScoreConfig,
        generator: Noise,
        path: GradientPath = "exact",
    ) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """Compute what one view contributes to the score.

        Args:
            images: Images, (b, 3, size, size), float in [0, 1].
            view: View, one of the score's.
            config: The detector's score, or one that differs from it in draws and steps only.
            generator: Source of all noise.
            path: Path of the gradients, see :func:`advrad.denoisers.sampling.reconstruct`.

        Returns:
            For each error map of the view, finest first, the standardised scores (b,) and maps (b, 1, h, w); and the
            reconstructions, (b, 3, h, w).
        """
        errors, recons = view_error_maps(self.denoiser, images, view, config, generator, path)
        parts = [standardise(maps, self.statistics(view, index), config) for index, maps in enumerate(errors)]
        return parts, recons

    def statistics(self, view: NoiseView, index: int) -> MapStatistics:
        """Statistics of one error map over normal images.

        Args:
            view: View, one of the score's.
            index: Index of the map among those of the view, finest first.
        """
        config = self.detector_config
        place = config.score.map_index(view, index)
        return MapStatistics(
            self.get_buffer(f"mean_{place}"),
            self.get_buffer(f"spread_{place}"),
            config.locations[place],
            config.scales[place],
            config.ceilings[place],
        )

    def score(self, images: Tensor, generator: Noise) -> Tensor:
        """Anomaly scores, (b,), differentiable in ``images``; see :meth:`infer`. Values outside [0, 1] are refused."""
        return self.infer(check_images(images), generator).scores

    def anomaly_maps(self, images: Tensor, generator: Noise) -> Tensor:
        """Anomaly maps, (b, 1, size, size), of images in [0, 1], differentiable in ``images``; see :meth:`infer`."""
        return self.infer(check_images(images), generator).anomaly_maps

    def reconstruct(self, images: Tensor, generator: Noise) -> Tensor:
        """Reconstructions, (b, 3, size, size), of images in [0, 1], differentiable in ``images``; see :meth:`infer`."""
        return self.infer(check_images(images), generator).reconstructions

    forward = score

    # --- Deciding: without gradients, in the configured precision. ---

    def update_config(self, **changes: object) -> None:
        """Replace fields of the configuration.

        Args:
            changes: New values of fields of :class:`advrad.detectors.config.DetectorConfig`, by name.
        """
        self.detector_config = self.detector_config.model_copy(update=changes)

    def autocast(self) -> torch.autocast:
        """Context of the precision in which verdicts are made."""
        bf16 = takes_bfloat16(self.detector_config.precision, self.device)
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bf16)

    def predict_batch(self, images: Tensor) -> AdvRADOutput:
        """Run :meth:`infer` as :meth:`predict` does: in evaluation mode, without gradients, with the stored noise seed.

        Args:
            images: Images, (b, 3, h, w), float in [0, 1].

        Returns:
            The output on the CPU, float32; the same for any batch size, on a GPU up to rounding.

        Raises:
            DataError: The images have another shape or type, or values that are not finite or outside [0, 1].
        """
        images = check_images(images)
        # One image at a time on a CPU, which costs nothing: some kernels round differently for another batch size.
        parts = []
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad(), self.autocast():
                for part in torch.split(images, 1 if self.device.type == "cpu" else len(images)):
                    generator = torch.Generator().manual_seed(self.detector_config.noise_seed)
                    parts.append([result.float().cpu() for result in self.infer(part.to(self.device), generator)])
        finally:
            self.train(was_training)
        return AdvRADOutput(*(torch.cat(results) for results in zip(*parts, strict=True)))

    # --- The model folder ---

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        **hub_options: Any,
    ) -> str | None:
        """Write the model folder: ``config.json``, ``model.safetensors`` and the model card.

        Args:
            save_directory: Folder, made if missing; a model in it is replaced.
            repo_id: Name of the model on the Hugging Face hub; None for the folder's name.
            push_to_hub: Whether to publish the model on the hub as well.
            hub_options: Options of :meth:`push_to_hub`.

        Returns:
            Address of the commit on the hub; None if nothing was published.

        Raises:
            OutputError: The folder holds files that advrad did not write, or cannot be written.
        """
        from advrad.detectors.model_card import render

        # The mixin's own function deletes a config.json of others, and keeps the card of an earlier model.
        place = Path(save_directory)
        save_folder(place, self.detector_config.model_dump(mode="json"), dict(self.state_dict()))
        write_card(place, render(self.detector_config))
        if not push_to_hub:
            return None
        for name in ("config", "model_card_kwargs"):
            hub_options.pop(name, None)
        return str(self.push_to_hub(repo_id=repo_id or place.name, **hub_options))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> AdvRAD:
        """Load a model folder, or a model from the hub.

        A folder that holds a detector of another kind gives that detector, as :func:`advrad.load_detector` does: it
        predicts, calibrates and saves under the same names. ``advrad train`` chooses the kind. An export gives an
        :class:`advrad.detectors.exported.ExportedDetector`, which predicts.

        Args:
            pretrained_model_name_or_path: Model folder, or hub id.
            options: ``map_location``, the device; and for the hub ``revision``, ``cache_dir``, ``force_download``,
                ``local_files_only`` and ``token``.

        Raises:
            CheckpointError: The model is missing, damaged, of an unknown kind, or of a newer format.
            ConfigError: An option or a configuration key is unknown.
        """
        # The mixin's own reader knows neither our error messages nor that ``denoiser`` is a configuration.
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
            folder = download(model_id, revision, cache_dir, force_download, local_files_only, token)
        values, tensors = ({"kind": "exported"}, {}) if is_export(folder) else load_folder(folder)
        source = str(folder / CONFIG_NAME)
        if values.pop("kind", "advrad") != "advrad":
            from advrad.detectors.loading import load_detector

            return cast(AdvRAD, load_detector(folder, map_location))
        return cls.assemble(DetectorConfig.parse(values, source), tensors, source).to(map_location).eval()

    @classmethod
    def assemble(cls, config: DetectorConfig, tensors: Mapping[str, Tensor], source: str) -> AdvRAD:
        """Make a detector from a stored configuration and stored weights.

        Args:
            config: Configuration.
            tensors: The detector's ``state_dict``.
            source: File of the configuration, for error messages.

        Raises:
            CheckpointError: Configuration and weights do not belong together.
            ConfigError: The configuration contradicts itself.
        """
        numbers = (config.locations, config.scales, config.ceilings)
        if any(len(values) != len(config.score.map_sizes) for values in numbers):
            raise CheckpointError(f"{source}: locations, scales or ceilings do not match the score's error maps")
        try:
            statistics = [
                MapStatistics(tensors[f"mean_{i}"], tensors[f"spread_{i}"], *values)
                for i, values in enumerate(zip(*numbers, strict=True))
            ]
            detector = cls(build_denoiser(config.denoiser), config, statistics)
            detector.load_state_dict(tensors)
        except ConfigError as error:
            raise ConfigError(f"{source}: {error}") from None
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(
                f"{source}: weights and configuration do not belong together ({str(error).splitlines()[0]}); retrain"
            ) from None
        return detector

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Make the model card with the measured figures."""
        from huggingface_hub import ModelCard

        from advrad.detectors.model_card import render

        return ModelCard(render(self.detector_config))
