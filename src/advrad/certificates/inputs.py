"""The images of a certification, at the size for which the radii hold."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from advrad.certificates.evaluation import CertifiedImages
from advrad.certificates.options import CertifyOptions
from advrad.data.framing import Framing
from advrad.data.images import examine, read_own_size
from advrad.data.labelled import load_labelled
from advrad.data.layouts import Dataset, find_records
from advrad.data.shapes import check_shapes
from advrad.data.splits import sample_test_records
from advrad.data.trained_images import trained_on, warn_of_trained
from advrad.data.transforms import to_tensor
from advrad.detectors.base import AnomalyDetector, SupportsTwoPath
from advrad.detectors.saved import framing_for, framing_of, seen_by
from advrad.detectors.wrappers import takes_colour
from advrad.errors import ConfigError

if TYPE_CHECKING:
    from advrad.data.labelled import DataSource


def load_test_images(detector: AnomalyDetector, data: DataSource, options: CertifyOptions) -> CertifiedImages:
    """Load the test images of a certification.

    Args:
        detector: Detector; one of a fixed size gets images of this size only.
        data: Test images: a folder, a datamodule, or a pair of images and labels.
        options: Options of the certification: size, limit, and how files are found and read.

    Returns:
        The images.

    Raises:
        ConfigError: The detector does not take images of the requested size.
        DataError: An image cannot be read, or images of one class are missing.
    """
    fixed_px = None if isinstance(detector, SupportsTwoPath) else detector.size_px
    if options.own_size and options.size_px is not None:
        raise ConfigError(
            "contradicts keeping the images' own size; give one of them", option="size_px", value=options.size_px
        )
    if fixed_px is not None and (options.own_size or options.size_px not in (None, fixed_px)):
        option, value = ("own_size", None) if options.own_size else ("size_px", options.size_px)
        raise ConfigError(f"this detector takes images of {fixed_px} px only; leave it out", option=option, value=value)
    if isinstance(data, tuple):
        if options.own_size or options.size_px is not None:
            option = "own_size" if options.own_size else "size_px"
            raise ConfigError("applies to image files; tensors keep their size, so leave it out", option=option)
    elif options.own_size:
        dataset = data if isinstance(data, Dataset) else find_records(data, options.data)
        return _at_own_size(dataset, options, framing_of(detector), seen_by(detector))
    wanted = framing_for(detector, options.size_px) or 256
    colour = takes_colour(detector)
    seen = seen_by(detector)
    loaded = load_labelled(
        data, wanted, options.data, options.limit, options.seed, masks=False, colour=colour, seen=seen
    )
    loaded.check_size(fixed_px)
    images = loaded.images
    # The same digest as in an attack, so that results on the same images are recognised.
    digest = hashlib.sha256(images.numpy().tobytes()).hexdigest()
    return CertifiedImages(
        images.__getitem__, loaded.labels, loaded.names, digest, loaded.category, (loaded.size,), loaded.warnings
    )


def _at_own_size(
    dataset: Dataset, options: CertifyOptions, framing: Framing | None, seen: Collection[str]
) -> CertifiedImages:
    """Images at the size of their files, read one at a time."""
    max_pixels = options.data.max_pixels
    chosen = sample_test_records(dataset.records, options.limit, options.seed, dataset.root)
    checked = check_shapes(chosen, None if framing is None else framing.trained, max_pixels)
    if checked.refused:
        raise checked.refused[0]
    records = checked.records
    infos = [examine(record.path, max_pixels) for record in records]
    digest = hashlib.sha256()
    for record in records:
        digest.update(hashlib.sha256(record.path.read_bytes()).digest())

    def load(index: int) -> Tensor:
        return to_tensor(read_own_size(records[index].path, framing, max_pixels, options.data.value_range))

    names = tuple(record.path.relative_to(dataset.root).as_posix() for record in records)
    return CertifiedImages(
        load,
        np.array([record.label for record in records], dtype=np.int64),
        names,
        digest.hexdigest(),
        dataset.category,
        tuple((info.height_px, info.width_px) for info in infos),
        (*dataset.warnings, *checked.warnings, *warn_of_trained(names, trained_on(records, seen))),
    )
