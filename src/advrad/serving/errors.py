"""The errors of the service. Each says what is wrong, and apart from it what to do.

An image that cannot be judged is an :class:`advrad.errors.ImageError`, as everywhere.
"""

from __future__ import annotations

from typing import ClassVar

from advrad.errors import AdvradError


class ServingError(AdvradError):
    """Base class of the errors of the service.

    Args:
        message: What is wrong, in one line.
        fix: What to do about it, in one line.

    Attributes:
        code: Name of the kind of error for programs; it does not change.

    Example:
        >>> error = ServingError("the disk is full", "free some space")
        >>> str(error), error.fix
        ('the disk is full; free some space', 'free some space')
    """

    code: ClassVar[str] = "failed"

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(f"{message}; {fix}")
        self.message, self.fix = message, fix


class QueueFull(ServingError):
    """The queue holds as many images, or as many bytes, as it may.

    Args:
        message: What is wrong, in one line.
        fix: What to do about it, in one line.
        retry_after_s: Seconds after which it is worth to ask again.
    """

    code = "queue_full"

    def __init__(self, message: str, fix: str, retry_after_s: int = 1) -> None:
        super().__init__(message, fix)
        self.retry_after_s = retry_after_s


class TooManyGuesses(ServingError):
    """Too many wrong keys came from one address; no new key counts from there for a while.

    Args:
        retry_after_s: Seconds after which it is worth to ask again.
    """

    code = "too_many_wrong_keys"

    def __init__(self, retry_after_s: int) -> None:
        super().__init__("too many wrong keys came from this address", f"wait {retry_after_s} s, and use a valid key")
        self.retry_after_s = retry_after_s


class DeadlineExceeded(ServingError):
    """An image was not inspected in time. It is not in the history."""

    code = "deadline_exceeded"


class Stopping(ServingError):
    """The service stops, and takes no more images."""

    code = "stopping"


class StoreUnavailable(ServingError):
    """The database or the disk of the pictures does not work now.

    What was asked for is not stored as far as the service knows. Where the connection broke while the database said
    that it had stored, it is.
    """

    code = "store_unavailable"


class ModelFailed(ServingError):
    """A model gave no score for an image that could be read."""

    code = "model_failed"


class UnknownProduct(ServingError):
    """There is no product of this name."""

    code = "unknown_product"


class UnknownInspection(ServingError):
    """There is no inspection of this identity in the history."""

    code = "unknown_inspection"


class UnknownThreshold(ServingError):
    """A product has no threshold of this version for its model."""

    code = "unknown_threshold"


class ReviewChanged(ServingError):
    """Somebody else has reviewed an inspection since it was shown."""

    code = "review_changed"


class ArtefactUnavailable(ServingError):
    """An image of an inspection cannot be drawn: its picture was deleted, or the model was replaced since."""

    code = "artefact_unavailable"


class ExportUnavailable(ServingError):
    """The detector of a product cannot be exported here and now."""

    code = "export_unavailable"


class CertificateUnavailable(ServingError):
    """The verdicts of this product cannot be certified."""

    code = "certificate_unavailable"
