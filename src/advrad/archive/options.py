"""What an archive is judged with."""

from __future__ import annotations

from pydantic import Field

from advrad.certificates.options import PredictionCertificateOptions
from advrad.data.records import MAX_PIXELS
from advrad.utils.config import Config


class ArchiveOptions(Config):
    """What an archive is judged with.

    Attributes:
        threshold: Threshold in place of the calibrated one, whose promise it does not have; None for that one.
        certificate: Options of the certificate of each verdict; None for no certificates.
        image_column: Column of Parquet files that holds images.
        max_pixels: Largest accepted image, width times height.
        value_range: Value of white in the image files, > 0; None if the files or the training tell it.
        device: Device that computes.
        runtime: What computes, ``torch``, ``openvino`` or ``onnxruntime``; None for what the folder was made for.

    Example:
        >>> ArchiveOptions().image_column
        'image'
    """

    threshold: float | None = None
    certificate: PredictionCertificateOptions | None = None
    image_column: str = "image"
    max_pixels: int = Field(MAX_PIXELS, ge=1)
    value_range: float | None = Field(None, gt=0)
    device: str = "auto"
    runtime: str | None = None
