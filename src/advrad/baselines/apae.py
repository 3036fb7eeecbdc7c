"""APAE, approximate projection autoencoder: two defences of a trained autoencoder at the time of judging.

- Approximate projection: the encoder may have been led astray, so its latent is only where a search begins. Gradient
  descent moves it to where the decoder comes nearer to the image, an approximate projection of the image onto what
  the decoder can draw.
- Feature weighting: the error of each channel of each pixel is divided by its usual size, the median over normal
  images, so that features that are always restored badly do not drown the others.

The search is part of the score: an attacker's gradient passes through all of its steps, and there is a hint that climbs
the error without it.

What differs from the paper, which judges readings of sensors: the network; the squared error in place of the smooth L1,
whose half it is below 1; 20 steps in place of 1000, of a length that is chosen on normal images and synthetic defects;
and errors are weighed after the projection, in the released code before it.

Source: Goodge, Hooi, Ng, Ng 2020, "Robustness of Autoencoders for Anomaly Detection Under Adversarial Impact" (IJCAI).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from advrad.baselines.autoencoder import Autoencoder, AutoencoderOptions, begun, finished, learn, shrunk
from advrad.baselines.base import FitContext
from advrad.data.synthetic import paste_defects
from advrad.data.transforms import resize
from advrad.detectors.base import SurrogateLoss

#: Step lengths to choose from.
_RATES = tuple(2.0**-exponent for exponent in range(2, 16))
#: Images on which the step is chosen, good ones and as many with defects.
_REFERENCES = 4


class ApaeOptions(AutoencoderOptions):
    """Options of APAE; see :class:`AutoencoderOptions`.

    Attributes:
        projection_steps: of gradient descent in the latent; 0 for none. The paper's 1000.
        weighted: whether errors are divided by their usual size.
        weight_floor: added to the usual size; the released code's 1e-3.
    """

    projection_steps: int = Field(20, ge=0)
    weighted: bool = True
    weight_floor: float = Field(1e-3, gt=0)


class Apae(Autoencoder):
    """An autoencoder with both defences, once :meth:`prepare` has been called.

    Args:
        size_px: side of the images.
        options: of the system.
    """

    options: ApaeOptions
    rate: Tensor
    usual: Tensor

    def __init__(self, size_px: int, options: ApaeOptions) -> None:
        super().__init__(size_px, options)
        self.register_buffer("rate", torch.tensor(0.0))
        self.register_buffer("usual", torch.ones(3, options.work_px, options.work_px))

    @property
    def surrogates(self) -> Mapping[str, SurrogateLoss]:
        """The score without the projection, whose gradient is that of one pass through the network."""
        return {"without projection": self._unprojected} if self.options.projection_steps else {}

    def project(self, view: Tensor, latent: Tensor) -> Tensor:
        """Move latents towards where half the summed squared error is least.

        Gradients reach ``view`` and ``latent`` through every step where the caller asks for any, and the search itself
        works where it asks for none.

        Args:
            view: (b, 3, work_px, work_px).
            latent: (b, latent_channels, latent_px, latent_px), where the search begins.

        Returns:
            Shape of ``latent``.
        """
        for _ in range(self.options.projection_steps):
            latent = self._step(view, latent)
        return latent

    def _step(self, view: Tensor, latent: Tensor) -> Tensor:
        asked = torch.is_grad_enabled() and (view.requires_grad or latent.requires_grad)
        with torch.enable_grad():
            place = latent if latent.requires_grad else latent.detach().requires_grad_()
            distance = 0.5 * (view - self.decode(place)).square().sum()
            (slope,) = torch.autograd.grad(distance, place, create_graph=asked)
        return latent - self.rate * slope

    def reconstruct(self, view: Tensor) -> Tensor:
        """See :meth:`Autoencoder.reconstruct`; of the projected latent."""
        return self.decode(self.project(view, self.encode(view)))

    def errors(self, view: Tensor) -> Tensor:
        """See :meth:`Autoencoder.errors`; weighted, so that 1 is usual."""
        return self.weigh(super().errors(view))

    def weigh(self, errors: Tensor) -> Tensor:
        """Squared errors (b, 3, work_px, work_px), relative to their usual size."""
        return errors / (self.usual + self.options.weight_floor) if self.options.weighted else errors

    def prepare(self, lesson: FitContext) -> None:
        """Choose the step of the projection, then learn the usual size of each error.

        The step is half the longest candidate at which the error of no reference rises at any step.

        Args:
            lesson: normal images.
        """
        first = shrunk(next(lesson.images(_REFERENCES)), self.options.work_px)
        seeds = torch.randint(2**31, (len(first),), generator=lesson.generator("apae references")).tolist()
        self.choose_rate(torch.cat([first, paste_defects(first, first.roll(1, 0), seeds)[0]]))
        views = (shrunk(part, self.options.work_px) for part in lesson.images())
        with torch.no_grad():
            errors = torch.cat([(view - self.reconstruct(view)).square() for view in views])
        self.usual.copy_(errors.median(0).values)

    @torch.no_grad()
    def choose_rate(self, view: Tensor) -> None:
        """See :meth:`prepare`; references are (b, 3, work_px, work_px)."""
        for rate in _RATES:
            self.rate.fill_(rate)
            if self._descends(view):
                break
        self.rate.div_(2)

    def _descends(self, view: Tensor) -> bool:
        latent = self.encode(view)
        before = (view - self.decode(latent)).square().sum((1, 2, 3))
        for _ in range(self.options.projection_steps):
            latent = self._step(view, latent)
            after = (view - self.decode(latent)).square().sum((1, 2, 3))
            if not bool((after <= before).all()):
                return False
            before = after
        return True

    def _unprojected(self, images: Tensor, generator: torch.Generator) -> Tensor:
        view = resize(images, self.options.work_px)
        errors = self.weigh((view - self.decode(self.encode(view))).square())
        return self.scores(images, resize(errors.mean(1, keepdim=True), images.shape[-1]))


def fit_apae(lesson: FitContext, options: ApaeOptions) -> Apae:
    """Train plainly on normal images, then prepare the defences."""
    system = begun(lesson, "apae", lambda: Apae(lesson.size_px, options))
    learn(system, lesson, lambda view, _: (view - system.decode(system.encode(view))).square().mean())
    finished(system).prepare(lesson)
    return system
