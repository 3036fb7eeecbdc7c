"""A detector made of a callable, by :func:`advrad.wrap`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from advrad.detectors.answers import to_output
from advrad.detectors.base import DetectorOutput, SurrogateLoss
from advrad.detectors.foreign import errors_in_words
from advrad.errors import DetectorError
from advrad.utils.seeding import copy_generator, seeded_globals
from advrad.utils.torch_state import set_defaults, torch_state_kept


@dataclass(frozen=True)
class CallableDetector:
    """A detector made from a callable; see :func:`advrad.wrap` for the attributes.

    The callable gets a copy of the images, which it may change, and PyTorch's default type and device of the moment at
    which it was wrapped. What it changes in PyTorch's settings is undone.

    Example:
        >>> import advrad
        >>> advrad.wrap(lambda images: images.mean((1, 2, 3)), size_px=64).size_px
        64
    """

    call: Callable[..., Any]
    size_px: int | None
    deterministic: bool
    differentiable: bool
    threshold: float | None
    noise_seed: int | None
    surrogates: Mapping[str, SurrogateLoss]
    takes_generator: bool
    dtype: torch.dtype = field(default_factory=torch.get_default_dtype)
    device: torch.device = field(default_factory=torch.get_default_device)
    #: Whether the callable takes one image at a time only, once that is known.
    _single: list[bool] = field(default_factory=list, init=False, repr=False, compare=False)

    def infer(self, images: Tensor, generator: torch.Generator) -> DetectorOutput:
        """See :class:`advrad.detectors.base.AnomalyDetector`.

        Raises:
            DetectorError: The callable fails, or returns neither scores nor maps.
        """
        if len(images) == 1 or not self._single:
            untouched = copy_generator(generator)
            try:
                return self._infer(images, generator)
            except DetectorError:
                if len(images) == 1 or not self._scores_one(images, untouched):
                    raise
            self._single.append(True)
            generator.set_state(untouched.get_state())
        return self._one_by_one(images, generator)

    def _scores_one(self, images: Tensor, generator: torch.Generator) -> bool:
        try:
            self._infer(images[:1], copy_generator(generator))
        except DetectorError:
            return False
        return True

    def _one_by_one(self, images: Tensor, generator: torch.Generator) -> DetectorOutput:
        """The output of a callable that takes one image at a time; every image gets the same noise."""
        outputs = [self._infer(image, copy_generator(generator)) for image in torch.split(images, 1)]
        maps = [output.anomaly_maps for output in outputs if output.anomaly_maps is not None]
        whole = torch.cat(maps) if len(maps) == len(outputs) else None
        torch.rand((), generator=generator, device=generator.device)  # the next call gets other noise
        return DetectorOutput(torch.cat([output.scores for output in outputs]), whole)

    def _infer(self, images: Tensor, generator: torch.Generator) -> DetectorOutput:
        with torch_state_kept():
            set_defaults(self.dtype, self.device)
            with errors_in_words(images):
                answer = self._answer(images.clone(), generator)
        return to_output(answer, images)

    def _answer(self, images: Tensor, generator: torch.Generator) -> object:
        if self.takes_generator:
            return self.call(images, generator=generator)
        if self.deterministic:
            return self.call(images)
        # Its noise comes from global generators: seed these from the given one, and restore them afterwards.
        seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
        with seeded_globals(seed):
            return self.call(images)
