"""The products that are inspected: a model folder or an export each, loaded wholly or not at all."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import structlog
import torch

from advrad.certificates.options import PredictionCertificateOptions
from advrad.certificates.prediction import Certifier, prediction_certifier
from advrad.data.records import MAX_PIXELS
from advrad.detectors.base import SupportsScoreBounds
from advrad.detectors.config import Calibration
from advrad.detectors.exported import ExportedDetector
from advrad.detectors.exported_config import ExportedConfig, halves_of
from advrad.detectors.identity import identity_of
from advrad.detectors.loading import load_config, load_detector
from advrad.detectors.outputs import Prediction
from advrad.detectors.reference import no_file_is_run
from advrad.detectors.saved import SavedDetector, takes_pixels
from advrad.detectors.wrappers import as_detector
from advrad.errors import AdvradError, CheckpointError, ConfigError, NotCalibratedError
from advrad.inference.judging import ImageJudge, LoadedImage
from advrad.serving.errors import CertificateUnavailable, UnknownProduct
from advrad.serving.settings import PRODUCT_NAME
from advrad.utils.threads import thread_count

_LEAST_TEST_PX = 64


@dataclass(frozen=True, slots=True, eq=False)
class Product:
    """A product with the detector that inspects it.

    Attributes:
        name: Name of the product.
        folder: Model folder or export.
        model: Identity of the model; its answers change with it.
        judge: Detector, with what it needs to read images.
        loaded_at: Time at which it was loaded, in UTC.
        reconstructs: Whether the detector makes reconstructions.
        side_by_side: Whether several threads may judge with it at once, an image each.
    """

    name: str
    folder: Path
    model: str
    judge: ImageJudge
    loaded_at: datetime
    reconstructs: bool = False
    side_by_side: bool = False

    @classmethod
    def load(
        cls, name: str, folder: Path, *, max_pixels: int = MAX_PIXELS, device: str = "auto", threads: int | None = None
    ) -> Product:
        """Load a product wholly: its files are checked, and it judges a test image. No file of Python is run.

        Args:
            name: Name of the product: letters, digits, points, hyphens and underscores.
            folder: Model folder or export.
            max_pixels: Largest accepted image, width times height.
            device: Device of a model, see :func:`advrad.detectors.loading.load_detector`.
            threads: Number of images that are judged at once, >= 1; None for as many as threads compute.

        Raises:
            ConfigError: The name, the device, or the configuration cannot be used, or a part of the model is a Python
                file.
            CheckpointError: The model is missing or damaged, was being replaced, or gives no score.
            NotCalibratedError: The model has no threshold.
        """
        if not re.fullmatch(PRODUCT_NAME, name):
            raise ConfigError(
                f"{name!r} cannot be the name of a product; take letters, digits, points, hyphens and underscores"
            )
        config = load_config(folder)  # says best what is wrong
        model = identity_of(folder)
        with no_file_is_run():
            if isinstance(config, ExportedConfig) and device == "auto":
                count = threads or thread_count()
                streams = count if config.engine == "openvino" else 1
                detector: SavedDetector = ExportedDetector.from_pretrained(folder, threads=count, streams=streams)
            else:
                detector = load_detector(folder, device)
        if identity_of(folder) != model:
            raise CheckpointError(f"{folder}: was replaced while it was loaded; wait until it is copied whole")
        try:
            judge = ImageJudge(detector, max_pixels=max_pixels)
        except NotCalibratedError as error:
            raise NotCalibratedError(f"{folder}: {error}") from None
        prediction = _try_out(judge, folder)
        reconstructs = prediction.reconstruction is not None
        return cls(name, folder, model, judge, datetime.now(UTC), reconstructs, _side_by_side(detector))

    @property
    def calibration(self) -> Calibration:
        """Threshold of the model folder, and where it comes from."""
        return self.judge.calibration

    @property
    def guarded(self) -> bool:
        """Whether the detector decides by a test for each of its halves, so that no other threshold suits it."""
        return halves_of(self.judge.detector.config) is not None

    @property
    def exported(self) -> bool:
        """Whether it is an export, which proves nothing."""
        return takes_pixels(self.judge.detector)

    def certifier(
        self,
        threshold: float | None = None,
        *,
        search_reach: bool = True,
        before_each: Callable[[], object] | None = None,
    ) -> Certifier:
        """Function that proves verdicts of this product.

        Certificates that are drawn at random take minutes, and are refused.

        Args:
            threshold: Threshold that decides in place of that of the model folder; None for that one.
            search_reach: Whether to search for the largest radius for which a verdict is proven.
            before_each: Called before each computation of bounds; what it raises ends the certificate.

        Raises:
            CertificateUnavailable: There are no certificates of this detector, or not with this threshold.
        """
        try:
            found, _ = prediction_certifier(
                self.judge.detector,
                PredictionCertificateOptions(),
                threshold,
                search_reach=search_reach,
                before_each=before_each,
            )
        except ConfigError as error:
            fix = "leave certify out" if threshold is None else "activate the threshold of the model folder"
            raise CertificateUnavailable(f"{self.name}: {error.message}", fix) from None
        if not isinstance(as_detector(self.judge.detector), SupportsScoreBounds):
            raise CertificateUnavailable(
                f"{self.name}: certificates of this detector are drawn at random, which takes minutes",
                "leave certify out, and certify with 'advrad predict'",
            )
        return found

    def facts(self) -> dict[str, Any]:
        """Where the model comes from and what it can do, as JSON values; no paths."""
        config = self.judge.detector.config
        found: dict[str, Any] = {
            "model": self.model,
            "kind": config.kind,
            "exported": self.exported,
            "guarded": self.guarded,
            "certifies": self._certifies(),
            "artefacts": ["map", "overlay", *(["reconstruction"] if self.reconstructs else [])],
            "image_size_px": config.image_size_px,
            "description": config.describe(),
            "loaded_at": self.loaded_at.isoformat(),
            "calibration": self.calibration.model_dump(mode="json", exclude={"scores"}),
            "trained_on": config.training.category,
            "versions": dict(config.training.versions),
        }
        if (halves := halves_of(config)) is not None:
            found["halves"] = list(halves.names)
        if isinstance(config, ExportedConfig):
            found |= {
                "source_kind": config.source_kind,
                "engine": config.engine,
                "precision": config.precision,
                "provenance": config.provenance.model_dump(mode="json"),
                "versions": dict(config.versions),
            }
        return found

    def _certifies(self) -> bool:
        try:
            self.certifier()
        except CertificateUnavailable:
            return False
        return True


def _try_out(judge: ImageJudge, folder: Path) -> Prediction:
    """Judge a test image: what fails on it would fail on every image. It also warms the model up."""
    shapes = judge.framing.trained
    width, height = (judge.framing.width_px, judge.framing.height_px) if shapes is None else shapes.median_px
    height_px, width_px = (max(_LEAST_TEST_PX, round(side)) for side in (height, width))
    pixels = np.random.default_rng(0).integers(64, 192, (height_px, width_px, 3), dtype=np.uint8)
    scored = pixels if takes_pixels(judge.detector) else judge.framing.apply(_as_batch(pixels))[0]
    try:
        [judged] = judge.decide([LoadedImage(Path("test image"), scored, None, height_px, width_px)])
    except (AdvradError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{folder}: gives no score for a test image ({reason}); train or export again") from None
    return judged.prediction


def _side_by_side(detector: SavedDetector) -> bool:
    """Whether an image takes about as long on one thread as on all, and images do not wait for each other.

    A GPU computes one batch at a time, and ONNX Runtime takes all threads for each image.
    """
    if isinstance(detector, ExportedDetector):
        return detector.streams > 1
    return detector.device.type == "cpu"


def _as_batch(pixels: np.ndarray[Any, Any]) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


@dataclass(frozen=True, slots=True)
class ProductStatus:
    """How a product stands.

    Attributes:
        name: Name of the product.
        folder: Model folder or export.
        model: Identity of the model that inspects now.
        loaded_at: Time at which it was loaded, in UTC.
        problem: Why what the folder holds now is not loaded, so that the model before it inspects on; None if it is.
    """

    name: str
    folder: Path
    model: str
    loaded_at: datetime
    problem: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    product: Product
    stamp: object
    problem: str | None = None


class ProductTable:
    """Products by name. A folder that is replaced is loaded anew; where that fails, the old model inspects on.

    Args:
        folders: Model folders and exports by product name.
        max_pixels: Largest accepted image, width times height.
        device: Device of the models, see :func:`advrad.detectors.loading.load_detector`.
        threads: Number of images that are judged at once, >= 1; None for as many as threads compute.
        poll_s: Seconds between two looks at the folders.
        on_load: Called with each product before it inspects, at the start and after each replacement. Where it raises,
            the product is not taken.

    Raises:
        ConfigError: No product is given, or a name, the device or a configuration cannot be used.
        CheckpointError: A model is missing, damaged, or gives no score.
        NotCalibratedError: A model has no threshold.

    Example:
        Needs a model folder.

        >>> products = ProductTable({"bottle": Path("run")})  # doctest: +SKIP
        >>> products.get("bottle").calibration.threshold  # doctest: +SKIP
        1.25
    """

    def __init__(
        self,
        folders: Mapping[str, Path],
        *,
        max_pixels: int = MAX_PIXELS,
        device: str = "auto",
        threads: int | None = None,
        poll_s: float = 2.0,
        on_load: Callable[[Product], object] | None = None,
    ) -> None:
        if not folders:
            raise ConfigError("no product is given; name at least one model folder")
        self._max_pixels, self._device, self._poll_s = max_pixels, device, poll_s
        self._threads = threads or thread_count()
        self._on_load = on_load
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._refreshing = threading.Lock()
        self._entries = {name: self._load(name, Path(folder)) for name, folder in folders.items()}

    def __iter__(self) -> Iterator[Product]:
        return iter([entry.product for entry in self._entries.values()])

    def __len__(self) -> int:
        return len(self._entries)

    def names(self) -> list[str]:
        """Names of the products, in the order in which they were given."""
        return list(self._entries)

    def get(self, name: str) -> Product:
        """Find a product.

        Args:
            name: Name of the product.

        Raises:
            UnknownProduct: There is none of this name.
        """
        if (entry := self._entries.get(name)) is None:
            raise UnknownProduct(f"there is no product named {name[:80]!r}", f"take one of {', '.join(self.names())}")
        return entry.product

    def status(self) -> list[ProductStatus]:
        """How each product stands."""
        return [
            ProductStatus(one.product.name, one.product.folder, one.product.model, one.product.loaded_at, one.problem)
            for one in self._entries.values()
        ]

    def refresh(self) -> None:
        """Look at the folders once, and load what was replaced."""
        with self._refreshing:
            for name, entry in list(self._entries.items()):
                self._entries[name] = self._refreshed(entry)

    def start(self) -> None:
        """Look at the folders from time to time, in a thread."""
        self._stopped.clear()
        self._thread = threading.Thread(target=self._watch, name="advrad-products", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more; the products stay."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _watch(self) -> None:
        while not self._stopped.wait(self._poll_s):
            self.refresh()

    def _load(self, name: str, folder: Path) -> _Entry:
        stamp = _stamp(folder)
        product = Product.load(name, folder, max_pixels=self._max_pixels, device=self._device, threads=self._threads)
        if self._on_load is not None:
            self._on_load(product)
        return _Entry(product, stamp)

    def _refreshed(self, entry: _Entry) -> _Entry:
        """The entry as the folder is now; the old model, with the reason, where the new one cannot be loaded."""
        old = entry.product
        if (stamp := _stamp(old.folder)) == entry.stamp:
            return entry
        log = structlog.get_logger("advrad.products").bind(product=old.name)
        try:
            if identity_of(old.folder) == old.model:
                return replace(entry, stamp=stamp, problem=None)
            new = self._load(old.name, old.folder)
        except Exception as error:  # whatever is wrong with the new one, the old one inspects on
            problem = " ".join(str(error).split()) or type(error).__name__
            log.error("the replaced model folder is not loaded; the model before it inspects on", reason=problem)
            return _Entry(old, stamp, problem)
        log.info("model folder loaded anew", model=new.product.model, before=old.model)
        return new


def _stamp(folder: Path) -> object:
    """What changes when a file of a folder is replaced: names, sizes, times and numbers of its files."""
    try:
        found = [(path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file()]
    except OSError as error:
        return str(error)
    return [(name, stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in found]
