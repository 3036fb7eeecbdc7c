"""PatchGuard-style: a small vision transformer that learns under attack which patches hold pasted defects.

Normal images and pseudo-anomalies, which are normal images with a defect pasted on the product, are attacked by
projected gradient ascent of the loss; the network learns from the attacked and the plain ones of both. Every patch has
a logit of its own, trained by the binary cross-entropy of whether the defect touches it. A second term spreads the
attention, because the less a token depends on few others the less can be moved through them: the Kullback-Leibler
divergence of each attention row from the uniform. An image's score is the mean of its three largest logits.

What differs from the paper: the transformer has two blocks behind a convolutional stem and starts from random weights;
the paper's is a pretrained DINOv2 with another transformer behind it, which knows what minutes cannot teach. To make up
for some of that, it is also shown the difference from the mean of the normal images, and patches that hold some of a
defect, which are few, weigh more in the loss. Defects are those of
:mod:`advrad.data.synthetic`, kept to the foreground, which is found by colour (:func:`foreground`),
not by Grad-CAM of a pretrained network. Attention is spread in all
blocks, by one weight. Logits stay logits in the score, where a sigmoid would saturate. There is no dropout. Attacks
while training are shorter and smaller than the paper's ten steps of 8/255, because figures here are for 2/255.

Source: Nafez et al. 2025, "PatchGuard: Adversarially Robust Anomaly Detection and Localization through Vision
Transformers and Pseudo Anomalies" (CVPR). Written from its abstract and part of the code released with it; the full
text was not at hand.
"""

from __future__ import annotations

import itertools
import math
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn

from advrad.baselines.autoencoder import begun, finished, shrunk
from advrad.baselines.base import BaselineDetector, FitContext, descend
from advrad.baselines.features import Radius, enlarged, worst
from advrad.data.synthetic import paste_defects
from advrad.data.transforms import resize
from advrad.detectors.base import DetectorOutput
from advrad.utils.config import Config

#: Frame from which the background's colour is taken, as a share of the side.
_FRAME = 1 / 16
#: An image has no background, as textures have none, where this share of its frame belongs to the foreground, or
#: where the two differ by less than this, in [0, 1] units of colour.
_FRAME_SHARE, _CONTRAST = 0.5, 0.1
#: How often a pseudo-anomaly that does not touch the foreground is drawn again, and the pixels that it must change.
_ATTEMPTS, _LEAST_PX = 8, 4


class PatchGuardOptions(Config):
    """How the model is built, trained and used.

    Attributes:
        work_px: side at which the network works; the paper's 224.
        patch_px: side of a patch, a power of 2; the paper's 14.
        width: of a token; the paper's 384.
        blocks: of the transformer.
        heads: of its attention.
        top_patches: whose logits are averaged into the score; the paper's 3.
        touched_weight: of patches that hold some of a defect in the loss; the paper's 1.
        attention_weight: of the divergence of the attention from the uniform.
        attack_eps: radius of the ``linf`` ball while training, in [0, 1] pixel units; 0 trains plainly.
        attack_steps: gradient steps of the attack on each batch; the paper's 10.
        steps: of training; the paper trains for 500 epochs.
        batch_size: normal images in each, and as many pseudo-anomalies; the paper's 16.
        learning_rate: at the beginning; the paper's is 8e-4.
    """

    work_px: int = Field(64, ge=16)
    patch_px: int = Field(8, ge=2)
    width: int = Field(96, ge=16, multiple_of=8)
    blocks: int = Field(2, ge=1)
    heads: int = Field(4, ge=1)
    top_patches: int = Field(3, ge=1)
    touched_weight: float = Field(5.0, gt=0)
    attention_weight: float = Field(0.01, ge=0)
    attack_eps: Radius = 2 / 255
    attack_steps: int = Field(2, ge=1)
    steps: int = Field(400, ge=1)
    batch_size: int = Field(8, ge=1)
    learning_rate: float = Field(2e-3, gt=0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.patch_px.bit_count() != 1 or self.work_px % self.patch_px:
            raise ValueError("patch_px must be a power of 2 that divides work_px")
        if self.width % self.heads:
            raise ValueError("width must be a multiple of heads")
        if self.top_patches > self.side**2:
            raise ValueError(f"top_patches exceeds the {self.side**2} patches of an image")
        return self

    @property
    def side(self) -> int:
        """Patches along a side."""
        return self.work_px // self.patch_px


class Block(nn.Module):
    """One block of a transformer, pre-normalised, that also tells how it attended.

    Args:
        width: of a token.
        heads: of the attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before, self.between = nn.LayerNorm(width), nn.LayerNorm(width)
        self.asked, self.told = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.thought = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(b, n, width) -> the same shape, and the attention (b, heads, n, n), whose rows add up to 1."""
        b, n, width = tokens.shape
        parts = self.asked(self.before(tokens)).view(b, n, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        attention = (query @ key.mT / math.sqrt(width // self.heads)).softmax(-1)
        tokens = tokens + self.told((attention @ value).transpose(1, 2).reshape(b, n, width))
        return tokens + self.thought(self.between(tokens)), attention


class PatchGuard(BaselineDetector):
    """Judges every patch, and an image by its worst patches.

    Args:
        size_px: side of the images.
        options: of the system.
    """

    mean: Tensor

    def __init__(self, size_px: int, options: PatchGuardOptions) -> None:
        super().__init__(size_px)
        self.options = options
        halvings = options.patch_px.bit_length() - 1
        # Groups of eight channels are normalised together.
        widths = [6, *(max(16, options.width // 2**left // 8 * 8) for left in reversed(range(halvings)))]
        widths[-1] = options.width
        self.stem = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(i, o, 3, stride=2, padding=1), nn.GroupNorm(8, o), nn.SiLU())
                for i, o in itertools.pairwise(widths)
            )
        )
        self.register_buffer("mean", torch.zeros(3, options.work_px, options.work_px))
        self.places = nn.Parameter(0.02 * torch.randn(options.side**2, options.width))
        self.blocks = nn.ModuleList(Block(options.width, options.heads) for _ in range(options.blocks))
        self.head = nn.Sequential(nn.LayerNorm(options.width), nn.Linear(options.width, 1))

    def examine(self, view: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Judge the patches.

        Args:
            view: (b, 3, work_px, work_px) in [0, 1].

        Returns:
            Logits (b, 1, side, side), and the attention of each block.
        """
        tokens = self.stem(torch.cat([2 * view - 1, 4 * (view - self.mean)], dim=1)).flatten(2).mT + self.places
        attentions = []
        for block in self.blocks:
            tokens, attention = block(tokens)
            attentions.append(attention)
        side = self.options.side
        return self.head(tokens).view(-1, 1, side, side), attentions

    def infer(self, images: Tensor, generator: torch.Generator) -> DetectorOutput:
        """See :class:`advrad.detectors.base.AnomalyDetector`; maps are logits."""
        logits, _ = self.examine(resize(images, self.options.work_px))
        worst_patches = logits.flatten(1).topk(self.options.top_patches, dim=1).values
        return DetectorOutput(worst_patches.mean(1), enlarged(logits, images))


def entropies(logits: Tensor, touched: Tensor, weight: float = 1.0) -> Tensor:
    """Binary cross-entropy of patches, mean of each image.

    Args:
        logits: (b, 1, side, side).
        touched: same shape, 1 where a patch holds some of a defect, else 0.
        weight: of patches that do, which are few.

    Returns:
        (b,).
    """
    each = F.binary_cross_entropy_with_logits(logits, touched, reduction="none", pos_weight=logits.new_tensor(weight))
    return each.mean((1, 2, 3))


def divergence_from_uniform(attention: Tensor) -> Tensor:
    """Kullback-Leibler divergence of attention rows from the uniform, (b, heads, n, n) -> (b,), mean of rows; >= 0."""
    rows = torch.xlogy(attention, attention * attention.shape[-1]).sum(-1)
    return rows.mean((1, 2))


def foreground(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Where the product is.

    The background has the median colour of the image's frame. What is farther from it than Otsu's threshold of all
    distances is foreground, holes included. An image that looks the same at its frame and within, as a texture does,
    is foreground everywhere.

    Args:
        image: (3, h, w) in [0, 1].

    Returns:
        (h, w), never empty.
    """
    from scipy import ndimage

    _, height, width = image.shape
    reach = max(1, round(_FRAME * min(height, width)))
    frame = np.ones((height, width), bool)
    frame[reach:-reach, reach:-reach] = False
    background = np.median(image[:, frame], axis=1)
    distance = np.abs(image - background[:, None, None]).max(0)
    distance = ndimage.uniform_filter(distance, max(1, min(height, width) // 64), mode="nearest")
    beyond = distance > _otsu(distance)
    alike = beyond.all() or not beyond.any() or distance[beyond].mean() - distance[~beyond].mean() < _CONTRAST
    if alike or beyond[frame].mean() > _FRAME_SHARE:
        return np.ones_like(frame)
    found: NDArray[np.bool_] = ndimage.binary_fill_holes(beyond)
    return found


def _otsu(values: NDArray[np.float32]) -> float:
    """The threshold that splits values into two groups of the largest variance between them (Otsu 1979)."""
    counts, edges = np.histogram(values, 128)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = counts.sum() - below
    sums = np.cumsum(counts * centres)
    with np.errstate(divide="ignore", invalid="ignore"):
        apart = (sums[-1] - sums[:-1]) / above - sums[:-1] / below
    between = np.nan_to_num(below * above * apart**2)
    return float(edges[1 + int(np.argmax(between))])


def paste_on_foreground(view: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Make pseudo-anomalies: a synthetic defect on each image, of which only what lies on the foreground is kept.

    Args:
        view: (b, 3, h, w) in [0, 1], normal images; each also lends pieces to the one after it.
        generator: source of the defects.

    Returns:
        The images, and masks (b, 1, h, w) bool of what changed visibly. Where no draw met the foreground, the image
        stays as it is and its mask is empty.
    """
    product = torch.from_numpy(np.stack([foreground(image) for image in view.numpy()]))[:, None]
    out, masks = view.clone(), torch.zeros_like(product)
    donors = view.roll(1, 0)
    left = torch.arange(len(view))
    for _ in range(_ATTEMPTS):
        seeds = torch.randint(2**31, (len(left),), generator=generator).tolist()
        pasted, changed = paste_defects(view[left], donors[left], seeds)
        changed &= product[left]
        met = changed.sum((1, 2, 3)) >= _LEAST_PX
        done = left[met]
        out[done] = torch.where(product[done], pasted[met], view[done])
        masks[done] = changed[met]
        left = left[~met]
        if not len(left):
            break
    return out, masks


def fit_patchguard(lesson: FitContext, options: PatchGuardOptions) -> PatchGuard:
    """Train on normal images, pseudo-anomalies, and attacks on both."""
    system = begun(lesson, "patchguard", lambda: PatchGuard(lesson.size_px, options))

    views = [shrunk(part, options.work_px) for part in lesson.images()]
    system.mean.copy_(torch.cat(views).mean(0))

    def loss(images: Tensor, generator: torch.Generator) -> Tensor:
        good = shrunk(images, options.work_px)
        bad, masks = paste_on_foreground(good, generator)
        touched = F.max_pool2d(torch.cat([torch.zeros_like(masks), masks]).float(), options.patch_px)
        view = torch.cat([good, bad])
        if options.attack_eps > 0:
            attacked = worst(
                lambda x: entropies(system.examine(x)[0], touched, options.touched_weight),
                view,
                options.attack_eps,
                options.attack_steps,
                generator,
            )
            view, touched = torch.cat([view, attacked]), torch.cat([touched, touched])
        logits, attentions = system.examine(view)
        divergence = torch.stack([divergence_from_uniform(attention).mean() for attention in attentions]).mean()
        return entropies(logits, touched, options.touched_weight).mean() + options.attention_weight * divergence

    descend(
        loss,
        system.parameters(),
        lesson,
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
    )
    return finished(system)
