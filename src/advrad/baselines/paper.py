"""AdvRAD with the paper's own score at one noise level of one's choice, on a denoiser that is trained already.

Beside the purifier at the same noise levels it shows what the noise costs and buys when the reconstruction is compared
with the image rather than handed on.

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
from advrad.training.score_selection import REFERENCES, forced
from advrad.utils.config import Config


class PaperOptions(Config):
    """Options of the paper's score.

    Attributes:
        sigma: noise, in [0, 1] pixel units; 0.26 is step 150 of the linear schedule.
        filter_px: odd width of the mean filter over the error map.
        view_px: side at which the denoiser works; None for the largest that it was trained at as a whole image.
        steps: denoiser calls; 1 is one-shot.
        draws: of noise, whose error maps are averaged.
    """

    sigma: float = Field(0.26, gt=0)
    filter_px: int = Field(3, gt=0)
    view_px: int | None = Field(None, ge=16)
    steps: int = Field(1, ge=1)
    draws: int = Field(1, ge=1)


def fit_paper(context: FitContext, options: PaperOptions) -> WhiteBoxAdvRAD:
    """Give the context's trained denoiser the paper's score.

    The mean error map is that of training images, location and scale those of images that the denoiser has not
    seen, shared out as in its own training.

    Args:
        context: with a trained detector.
        options: see there.

    Raises:
        ConfigError: the context has no trained detector.
    """
    if context.diffusion is None:
        raise ConfigError("the paper's score needs a trained AdvRAD; the context has none")
    trained = context.diffusion()
    config = trained.detector_config
    whole = [view.image_px for view in config.training.loop.views if view.image_px == view.window_px]
    side = options.view_px or max(whole, default=config.size_px)
    score = paper_score(config.size_px, options.sigma, options.filter_px)
    look = NoiseView(view_px=side, sigma=options.sigma)
    score = score.model_copy(update={"looks": (look,), "steps": options.steps, "draws": options.draws})
    split = split_normals(context.normal_images.records, context.seed)
    rows = {record: index for index, record in enumerate(context.normal_images.records)}
    references = context.normal_images.batch([rows[record] for record in split.train[:REFERENCES]])
    normals = context.normal_images.batch([rows[record] for record in split.selection])
    selection = forced(trained.denoiser, references, normals, score, context.generator("paper"))
    settings = config.model_copy(update={"score": score, "calibration": None, "robust_calibration": None})
    return WhiteBoxAdvRAD(AdvRAD(trained.denoiser, settings, selection.statistics).to(trained.device))
