"""PatchGuard: an adversarially trained vision transformer that finds patches with pasted defects.

Pseudo-anomalies are normal images with a synthetic defect pasted on the product. Projected gradient ascent of the loss
attacks normal images and pseudo-anomalies; the network learns from the attacked and the clean images. Every patch has
its own logit, trained with the binary cross-entropy of whether a defect touches the patch. A second term, the
Kullback-Leibler divergence of each attention row from the uniform distribution, spreads the attention, since a token
that depends on few others is easier to attack through them. The score of an image is the mean of its three largest
logits.

Differences from the paper: the transformer has two blocks behind a convolutional stem and random initial weights; the
paper puts a transformer behind a pretrained DINOv2. To make up for part of that, the network also sees the difference
from the mean normal image, and the few patches with a defect have a larger weight in the loss. Defects come from
:mod:`advrad.data.synthetic` and are kept to the foreground, which is found by colour (:func:`foreground`), not by
Grad-CAM of a pretrained network. One weight spreads the attention of all blocks. The score uses logits, since a sigmoid
would saturate. There is no dropout. The attack during training is shorter and smaller than the paper's ten steps of
8/255, because the figures here are for 2/255.

Source: Nafez et al. 2025, "PatchGuard: Adversarially Robust Anomaly Detection and Localization through Vision
Transformers and Pseudo Anomalies" (CVPR). Written from its abstract and part of the released code; the full text was
not available.
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

from advrad.baselines.base import BaselineDetector, FitContext, build_seeded, freeze, resize_clamped, train_network
from advrad.baselines.features import Radius, adversarial_examples, upsample
from advrad.data.synthetic import paste_defects
from advrad.data.transforms import resize
from advrad.detectors.base import DetectorOutput
from advrad.utils.config import Config

#: Width of the frame that gives the background's colour, as a share of the side.
_FRAME = 1 / 16
#: An image counts as having no background, like a texture, if more than this share of its frame is foreground, or if
#: foreground and background differ in colour by less than this, in [0, 1] units.
_FRAME_SHARE, _CONTRAST = 0.5, 0.1
#: Number of draws until a pseudo-anomaly touches the foreground, and number of pixels that it must change there.
_ATTEMPTS, _LEAST_PX = 8, 4


class PatchGuardOptions(Config):
    """Options of PatchGuard.

    Attributes:
        work_px: Side at which the network works, in pixels; 224 in the paper.
        patch_px: Side of a patch in pixels, a power of 2; 14 in the paper.
        width: Width of a token; 384 in the paper.
        blocks: Number of transformer blocks.
        heads: Number of attention heads.
        top_patches: Number of largest logits that are averaged into the score; 3 in the paper.
        touched_weight: Weight in the loss of patches that a defect touches; 1 in the paper.
        attention_weight: Weight of the divergence of the attention from the uniform distribution.
        attack_eps: Radius of the ``linf`` ball during training, in [0, 1] pixel units; 0 trains without attack.
        attack_steps: Gradient steps of the attack on each batch; 10 in the paper.
        steps: Number of training steps; the paper trains for 500 epochs.
        batch_size: Number of normal images per step, with as many pseudo-anomalies; 16 in the paper.
        learning_rate: Initial learning rate; 8e-4 in the paper.
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
            raise ValueError(f"top_patches must be at most {self.side**2}, the number of patches of an image")
        return self

    @property
    def side(self) -> int:
        """Number of patches along a side."""
        return self.work_px // self.patch_px


class Block(nn.Module):
    """A pre-normalised transformer block that also returns its attention.

    Args:
        width: Width of a token.
        heads: Number of attention heads.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.projection = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Process tokens.

        Args:
            tokens: Tokens, (b, n, width).

        Returns:
            Tokens of the same shape, and the attention, (b, heads, n, n), whose rows add up to 1.
        """
        b, n, width = tokens.shape
        parts = self.qkv(self.norm1(tokens)).view(b, n, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        attention = (query @ key.mT / math.sqrt(width // self.heads)).softmax(-1)
        tokens = tokens + self.projection((attention @ value).transpose(1, 2).reshape(b, n, width))
        return tokens + self.mlp(self.norm2(tokens)), attention


class PatchGuard(BaselineDetector):
    """PatchGuard, which scores patches, and an image by its most anomalous patches.

    Args:
        size_px: Side of the images in pixels.
        options: Options of the system.
    """

    mean: Tensor

    def __init__(self, size_px: int, options: PatchGuardOptions) -> None:
        super().__init__(size_px)
        self.options = options
        halvings = options.patch_px.bit_length() - 1
        # Group normalisation has 8 groups, so widths are multiples of 8.
        widths = [6, *(max(16, options.width // 2**left // 8 * 8) for left in reversed(range(halvings)))]
        widths[-1] = options.width
        self.stem = nn.Sequential(
            *(
                nn.Sequential(nn.Conv2d(i, o, 3, stride=2, padding=1), nn.GroupNorm(8, o), nn.SiLU())
                for i, o in itertools.pairwise(widths)
            )
        )
        self.register_buffer("mean", torch.zeros(3, options.work_px, options.work_px))
        self.position_embedding = nn.Parameter(0.02 * torch.randn(options.side**2, options.width))
        self.blocks = nn.ModuleList(Block(options.width, options.heads) for _ in range(options.blocks))
        self.head = nn.Sequential(nn.LayerNorm(options.width), nn.Linear(options.width, 1))

    def patch_logits(self, view: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Compute the logits of all patches.

        Args:
            view: Images at the working size, (b, 3, work_px, work_px), float in [0, 1].

        Returns:
            Logits, (b, 1, side, side), and the attention of each block.
        """
        tokens = (
            self.stem(torch.cat([2 * view - 1, 4 * (view - self.mean)], dim=1)).flatten(2).mT + self.position_embedding
        )
        attentions = []
        for block in self.blocks:
            tokens, attention = block(tokens)
            attentions.append(attention)
        side = self.options.side
        return self.head(tokens).view(-1, 1, side, side), attentions

    def infer(self, images: Tensor, generator: torch.Generator) -> DetectorOutput:
        """See :class:`advrad.detectors.base.AnomalyDetector`; the maps are logits."""
        logits, _ = self.patch_logits(resize(images, self.options.work_px))
        worst_patches = logits.flatten(1).topk(self.options.top_patches, dim=1).values
        return DetectorOutput(worst_patches.mean(1), upsample(logits, images))


def patch_losses(logits: Tensor, touched: Tensor, weight: float = 1.0) -> Tensor:
    """Binary cross-entropy of patches, averaged over each image.

    Args:
        logits: Logits, (b, 1, side, side).
        touched: Targets of the same shape, 1 where a defect touches a patch, else 0.
        weight: Weight of the touched patches.

    Returns:
        Losses, (b,).
    """
    each = F.binary_cross_entropy_with_logits(logits, touched, reduction="none", pos_weight=logits.new_tensor(weight))
    return each.mean((1, 2, 3))


def divergence_from_uniform(attention: Tensor) -> Tensor:
    """Mean Kullback-Leibler divergence of attention rows from the uniform distribution, >= 0.

    Args:
        attention: Attention, (b, heads, n, n).

    Returns:
        Divergences, (b,).
    """
    rows = torch.xlogy(attention, attention * attention.shape[-1]).sum(-1)
    return rows.mean((1, 2))


def foreground(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Find the product in an image.

    The background has the median colour of the image's frame. Pixels whose distance from it exceeds Otsu's threshold of
    all distances are foreground, and so are holes. If the frame looks like the rest, as with textures, everything is
    foreground.

    Args:
        image: Image, (3, h, w), float in [0, 1].

    Returns:
        Mask of the foreground, (h, w), never empty.
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
    """Threshold that splits values into two groups with the largest variance between them (Otsu 1979)."""
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
    """Make pseudo-anomalies: paste a synthetic defect on each image and keep the part on the foreground.

    Args:
        view: Normal images, (b, 3, h, w), float in [0, 1]; each also gives pieces to the next one.
        generator: Source of the defects.

    Returns:
        The images, and masks, (b, 1, h, w), bool, of the visible changes. If no draw touches the foreground, the image
        stays unchanged and its mask is empty.
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


def fit_patchguard(context: FitContext, options: PatchGuardOptions) -> PatchGuard:
    """Train PatchGuard on normal images, pseudo-anomalies, and attacks on both."""
    system = build_seeded(context, "patchguard", lambda: PatchGuard(context.size_px, options))

    views = [resize_clamped(part, options.work_px) for part in context.images()]
    system.mean.copy_(torch.cat(views).mean(0))

    def loss(images: Tensor, generator: torch.Generator) -> Tensor:
        normal = resize_clamped(images, options.work_px)
        anomalous, masks = paste_on_foreground(normal, generator)
        touched = F.max_pool2d(torch.cat([torch.zeros_like(masks), masks]).float(), options.patch_px)
        view = torch.cat([normal, anomalous])
        if options.attack_eps > 0:
            attacked = adversarial_examples(
                lambda x: patch_losses(system.patch_logits(x)[0], touched, options.touched_weight),
                view,
                options.attack_eps,
                options.attack_steps,
                generator,
            )
            view, touched = torch.cat([view, attacked]), torch.cat([touched, touched])
        logits, attentions = system.patch_logits(view)
        divergence = torch.stack([divergence_from_uniform(attention).mean() for attention in attentions]).mean()
        return patch_losses(logits, touched, options.touched_weight).mean() + options.attention_weight * divergence

    train_network(
        loss,
        system.parameters(),
        context,
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
    )
    return freeze(system)
