"""APAE, approximate projection autoencoder: a trained autoencoder with two defences at test time.

- Approximate projection: an attack may have misled the encoder, so its latent is only the start of a search. Gradient
  descent moves the latent so that the decoded image comes closer to the input, which approximately projects the input
  onto the images that the decoder can produce.
- Feature weighting: the error of each channel and pixel is divided by its median over normal images, so that features
  with large errors everywhere do not dominate.

The search is part of the score. An attacker's gradient passes through all its steps, and a surrogate loss leaves the
search out.

Differences from the paper, which scores sensor readings: the network; the squared error in place of the smooth L1 loss
(half of it is the same below 1); 20 steps in place of 1000, with a step size chosen on normal images and synthetic
defects; and errors are weighted after the projection (before it in the released code).

Source: Goodge, Hooi, Ng, Ng 2020, "Robustness of Autoencoders for Anomaly Detection Under Adversarial Impact" (IJCAI).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from advrad.baselines.autoencoder import Autoencoder, AutoencoderOptions, train_autoencoder
from advrad.baselines.base import FitContext, build_seeded, freeze, resize_clamped
from advrad.data.synthetic import paste_defects
from advrad.data.transforms import resize
from advrad.detectors.base import SurrogateLoss

#: Candidate step sizes of the projection.
_STEP_SIZES = tuple(2.0**-exponent for exponent in range(2, 16))
#: Number of normal images, and of synthetic defects, on which the step size is chosen.
_REFERENCES = 4


class ApaeOptions(AutoencoderOptions):
    """Options of APAE; see :class:`AutoencoderOptions`.

    Attributes:
        projection_steps: Steps of gradient descent in the latent; 0 for none; 1000 in the paper.
        weighted: Whether errors are divided by their typical size.
        weight_floor: Constant added to the typical size; 1e-3 in the released code.
    """

    projection_steps: int = Field(20, ge=0)
    weighted: bool = True
    weight_floor: float = Field(1e-3, gt=0)


class Apae(Autoencoder):
    """An autoencoder with both defences, ready once :meth:`prepare` was called.

    Args:
        size_px: Side of the images in pixels.
        options: Options of the system.
    """

    options: ApaeOptions
    step_size: Tensor
    typical_errors: Tensor

    def __init__(self, size_px: int, options: ApaeOptions) -> None:
        super().__init__(size_px, options)
        self.register_buffer("step_size", torch.tensor(0.0))
        self.register_buffer("typical_errors", torch.ones(3, options.work_px, options.work_px))

    @property
    def surrogates(self) -> Mapping[str, SurrogateLoss]:
        """The score without the projection, whose gradient is that of one pass through the network."""
        return {"without projection": SurrogateLoss(self._unprojected)} if self.options.projection_steps else {}

    def project(self, view: Tensor, latent: Tensor) -> Tensor:
        """Reduce half the summed squared error by gradient descent in the latent.

        If the caller computes gradients, they reach ``view`` and ``latent`` through every step.

        Args:
            view: Images at the working size, (b, 3, work_px, work_px).
            latent: Initial latents, (b, latent_channels, latent_px, latent_px).

        Returns:
            Latents of the same shape.
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
        return latent - self.step_size * slope

    def reconstruct(self, view: Tensor) -> Tensor:
        """See :meth:`Autoencoder.reconstruct`; decodes the projected latent."""
        return self.decode(self.project(view, self.encode(view)))

    def errors(self, view: Tensor) -> Tensor:
        """See :meth:`Autoencoder.errors`; weighted, so that 1 is typical."""
        return self.weigh(super().errors(view))

    def weigh(self, errors: Tensor) -> Tensor:
        """Divide squared errors (b, 3, work_px, work_px) by their typical size."""
        return errors / (self.typical_errors + self.options.weight_floor) if self.options.weighted else errors

    def prepare(self, context: FitContext) -> None:
        """Choose the step size of the projection, then compute the typical size of each error.

        The step size is half the largest candidate with which no reference image's error rises at any step.

        Args:
            context: Training images.
        """
        first = resize_clamped(next(context.images(_REFERENCES)), self.options.work_px)
        seeds = torch.randint(2**31, (len(first),), generator=context.generator("apae references")).tolist()
        self.choose_step_size(torch.cat([first, paste_defects(first, first.roll(1, 0), seeds)[0]]))
        views = (resize_clamped(part, self.options.work_px) for part in context.images())
        with torch.no_grad():
            errors = torch.cat([(view - self.reconstruct(view)).square() for view in views])
        self.typical_errors.copy_(errors.median(0).values)

    @torch.no_grad()
    def choose_step_size(self, view: Tensor) -> None:
        """Choose the step size on reference images (b, 3, work_px, work_px); see :meth:`prepare`."""
        for rate in _STEP_SIZES:
            self.step_size.fill_(rate)
            if self._descends(view):
                break
        self.step_size.div_(2)

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


def fit_apae(context: FitContext, options: ApaeOptions) -> Apae:
    """Train a plain autoencoder on normal images, then prepare the defences."""
    system = build_seeded(context, "apae", lambda: Apae(context.size_px, options))
    train_autoencoder(system, context, lambda view, _: (view - system.decode(system.encode(view))).square().mean())
    freeze(system).prepare(context)
    return system
