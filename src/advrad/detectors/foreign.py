"""Errors of foreign detectors, as one line that says where they come from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from advrad.errors import AdvradError, DetectorError
from advrad.utils.imports import place_of
from advrad.utils.memory import is_out_of_memory


@contextmanager
def errors_in_words(images: Tensor) -> Iterator[None]:
    """Make a :class:`advrad.errors.DetectorError` of whatever a foreign detector raises in the block.

    Errors of advrad, and exhausted memory, pass as they are.

    Args:
        images: Images that the detector scores, (b, c, h, w).

    Raises:
        DetectorError: The block raised an error.
    """
    try:
        yield
    except AdvradError:
        raise
    except (Exception, SystemExit) as error:
        if isinstance(error, Exception) and is_out_of_memory(error):
            raise
        count, channels, height, width = images.shape
        lines, place = str(error).strip().splitlines(), place_of(error)
        raise DetectorError(
            f"the detector fails on {count} image{'s' if count > 1 else ''} of {width} x {height} px, {channels}"
            f" channel{'s' if channels > 1 else ''}: {type(error).__name__}{': ' if lines else ''}"
            f"{lines[0] if lines else ''}{f' ({place})' if place else ''}; mend it there"
        ) from error
