"""AdvRAD with the score of the paper at one chosen noise level, on a denoiser that is already trained.

Compared with the purifier at the same noise levels, it shows what noise costs and gains when the reconstruction is
compared with the image.

Source: Cao, Lin, Chen, "Adversarially Robust Industrial Anomaly Detection Through Diffusion Model", section 3.3.
"""

from __future__ import annotations

from pydantic import Field

from advrad.baselines.base import FitContext
from advrad.data.splits import split_normals
from advrad.detectors.advrad import AdvRAD
from advrad.detectors.score_config import NoiseView, paper_score
from advrad.detectors.white_box import WhiteBoxAdvRAD
from advrad.errors import ConfigError
from advrad.training.score_selection import REFERENCES, fixed_score
from advrad.utils.config import Config


class PaperOptions(Config):
    """Options of the paper's score.

    Attributes:
        sigma: Noise level in [0, 1] pixel units; 0.26 is step 150 of the linear schedule.
        filter_px: Width of the mean filter over the error map in pixels, odd.
        view_px: Side at which the denoiser works, in pixels; None for the largest whole-image side that it was trained
            at.
        steps: Number of denoiser calls per reconstruction; 1 is one-shot.
        draws: Number of noise draws whose error maps are averaged.
    """

    sigma: float = Field(0.26, gt=0)
    filter_px: int = Field(3, gt=0)
    view_px: int | None = Field(None, ge=16)
    steps: int = Field(1, ge=1)
    draws: int = Field(1, ge=1)


def fit_paper(context: FitContext, options: PaperOptions) -> WhiteBoxAdvRAD:
    """Use the denoiser of the trained AdvRAD with the paper's score.

    The mean error map comes from training images. Location and scale come from normal images that the denoiser was not
    trained on, with the same split as in its own training.

    Args:
        context: Training images, with ``diffusion``.
        options: Options of the score.

    Raises:
        ConfigError: The context has no trained AdvRAD.
    """
    if context.diffusion is None:
        raise ConfigError("the paper's score needs a trained AdvRAD; set FitContext.diffusion")
    trained = context.diffusion()
    config = trained.detector_config
    whole = [view.image_px for view in config.training.loop.views if view.image_px == view.window_px]
    side = options.view_px or max(whole, default=config.size_px)
    score = paper_score(config.size_px, options.sigma, options.filter_px)
    view = NoiseView(view_px=side, sigma=options.sigma)
    score = score.model_copy(update={"views": (view,), "steps": options.steps, "draws": options.draws})
    split = split_normals(context.normal_images.records, context.seed)
    rows = {record: index for index, record in enumerate(context.normal_images.records)}
    references = context.normal_images.batch([rows[record] for record in split.train[:REFERENCES]])
    normals = context.normal_images.batch([rows[record] for record in split.selection])
    selection = fixed_score(trained.denoiser, references, normals, score, context.generator("paper"))
    settings = config.model_copy(update={"score": score, "calibration": None, "robust_calibration": None})
    return WhiteBoxAdvRAD(AdvRAD(trained.denoiser, settings, selection.statistics).to(trained.device))
