"""Nearest neighbours among adversarially robust features.

The paper takes networks that were trained adversarially on labelled ImageNet and uses them as they are. Such weights
are loaded from a local file where ``weights`` names one. Without it, an ordinary ImageNet network is made more robust
here: it is tuned so that the feature of an attacked image stays where the ordinary network puts the image itself.
That needs no labels, but it sees this product's normal images, and synthetic defects on them, for minutes rather than
ImageNet for days. It is a stand-in, less robust and less general than the paper's weights; read its figures as such.

Source: Mirzaei et al. 2024, "Killing It With Zero-Shot: Adversarially Robust Novelty Detection" (ZARND); tuning:
Schlarmann et al. 2024, "Robust CLIP: Unsupervised Adversarial Fine-Tuning of Vision Embeddings for Robust Large
Vision-Language Models" (FARE).
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn

from advrad.baselines.base import BaselineDetector, FitContext, descend
from advrad.baselines.features import Radius, frozen, imagenet, nearest, worst
from advrad.data.synthetic import paste_defects
from advrad.data.transforms import resize
from advrad.detectors.base import DetectorOutput
from advrad.errors import ConfigError
from advrad.utils.config import Config

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: What training code puts before the names of a network's parameters.
_PREFIXES = ("module.", "model.", "attacker.")


class RobustKnnOptions(Config):
    """Options of the robust nearest neighbours.

    Attributes:
        neighbours: whose distances are averaged; all normal images where they are fewer.
        view_px: images are shrunk to this side; the paper's is 224.
        weights: a local safetensors file of robust weights; None tunes the ordinary ones instead.
        backbone: timm's name of the network that ``weights`` are for.
        attack_eps: radius of the ``linf`` ball while tuning, in [0, 1] pixel units; 0 leaves the ordinary network.
        attack_steps: gradient steps of the attack on each batch; FARE's is 10.
        steps: of tuning; FARE takes two epochs of ImageNet.
        batch_size: images in each.
        learning_rate: at the beginning.
    """

    neighbours: int = Field(2, ge=1)
    view_px: int = Field(128, ge=32)
    weights: Path | None = None
    backbone: str = "resnet18"
    attack_eps: Radius = 2 / 255
    attack_steps: int = Field(3, ge=1)
    steps: int = Field(80, ge=1)
    batch_size: int = Field(4, ge=1)
    learning_rate: float = Field(1e-4, gt=0)


class RobustKnn(BaselineDetector):
    """Fitted nearest neighbours. It judges images as a whole and gives no maps, as the paper.

    Args:
        size_px: of the images.
        network: see :mod:`advrad.baselines.features`; its last map is averaged.
        options: see there.
        bank: (n, c), features of the normal images.
    """

    bank: Tensor

    def __init__(self, size_px: int, network: nn.Module, options: RobustKnnOptions, bank: Tensor) -> None:
        super().__init__(size_px)
        self.network, self.options = frozen(network), options
        self.register_buffer("bank", bank)

    def infer(self, images: Tensor, generator: torch.Generator) -> DetectorOutput:
        """See :class:`advrad.detectors.base.AnomalyDetector`; mean squared distance to the nearest normal images."""
        features = described(self.network, resize(images, self.options.view_px))
        return DetectorOutput(nearest(features, self.bank, self.options.neighbours)[0].mean(1))


def described(network: nn.Module, images: Tensor) -> Tensor:
    """Global features: (b, 3, h, w) in [0, 1] -> (b, c), the mean of the network's last map."""
    last: Tensor = network(images)[-1]
    return last.mean((2, 3))


def harden(network: nn.Module, lesson: FitContext, options: RobustKnnOptions) -> nn.Module:
    """Tune a copy of a network so that attacks move its features less.

    Half of each batch is normal images, half the same with synthetic defects, so that not only what is good keeps its
    place. The loss is the worst squared distance to the ordinary feature, relative to the spread that features have
    between images. Statistics of batch norms stay as they are.

    Args:
        network: ordinary and frozen; stays as it is.
        lesson: what to learn from.
        options: see there.
    """
    tuned = copy.deepcopy(network).eval().requires_grad_(True)
    with torch.no_grad():
        usual = torch.cat([described(network, resize(part, options.view_px)) for part in lesson.images()])
        spread = usual.var(0, correction=0).sum().clamp_min(1e-12)

    def loss(images: Tensor, generator: torch.Generator) -> Tensor:
        images = resize(images, options.view_px).clamp(0, 1)  # rounding; no gradient passes here
        half = max(1, len(images) // 2)
        seeds = torch.randint(2**62, (half,), generator=generator).tolist()
        images = torch.cat([paste_defects(images[:half], images.flip(0)[:half], seeds)[0], images[half:]])
        with torch.no_grad():
            place = described(network, images)

        def moved(images: Tensor) -> Tensor:
            return (described(tuned, images) - place).square().sum(1) / spread

        return moved(worst(moved, images, options.attack_eps, options.attack_steps, generator)).mean()

    descend(
        loss,
        tuned.parameters(),
        lesson,
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        weight_decay=1e-4,
    )
    return frozen(tuned)


class Loaded(nn.Module):
    """A timm network that takes images in [0, 1] and gives its feature maps.

    Args:
        maps: the network, which expects ImageNet's normalisation.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, maps: nn.Module) -> None:
        super().__init__()
        self.maps = maps
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(_STD)[:, None, None])

    def forward(self, images: Tensor) -> list[Tensor]:
        """(b, 3, h, w) in [0, 1] -> list of (b, c, h', w')."""
        maps: list[Tensor] = self.maps((images - self.mean) / self.std)
        return maps


def load_network(backbone: str, weights: Path) -> nn.Module:
    """A network with weights of one's own; needs timm.

    Args:
        backbone: timm's name.
        weights: safetensors file of its parameters under timm's names, with or without what training code puts before
            them. A classifier's head is ignored. Pickled files are refused: opening one may run code that is in it.

    Raises:
        ConfigError: timm is missing, or the file cannot be read or belongs to another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        import timm
    except ImportError:
        raise ConfigError("weights: networks with weights of one's own need timm; install advrad[anomalib]") from None
    try:
        maps: nn.Module = timm.create_model(backbone, pretrained=False, features_only=True)
    except (RuntimeError, AttributeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"backbone: {backbone} is no network of timm that gives features ({reason})") from None
    try:
        state = {_bare(name): value for name, value in load_file(weights).items()}
    except (SafetensorError, OSError) as error:
        raise ConfigError(
            f"weights: {weights} cannot be read as safetensors ({error}); give a file that safetensors.torch.save_file"
            " made of the network's state_dict"
        ) from None
    try:
        missing, _ = maps.load_state_dict(state, strict=False)
    except RuntimeError:
        raise ConfigError(f"weights: {weights} holds other shapes than {backbone}; name its own `backbone`") from None
    if missing:
        raise ConfigError(f"weights: {weights} lacks {missing[0]} of {backbone}; name its own `backbone`")
    return frozen(Loaded(maps))


def _bare(name: str) -> str:
    """A parameter's name without what training code puts before it."""
    for prefix in _PREFIXES * len(_PREFIXES):
        name = name.removeprefix(prefix)
    return name


def fit_robust_knn(lesson: FitContext, options: RobustKnnOptions, network: nn.Module | None = None) -> RobustKnn:
    """Load or make robust features, and remember those of the normal images.

    Args:
        lesson: what to learn from.
        options: see there.
        network: an ordinary one to be tuned, see :mod:`advrad.baselines.features`; by default :func:`imagenet`.

    Raises:
        ConfigError: ``weights`` cannot be used.
    """
    if options.weights is not None:
        network = load_network(options.backbone, options.weights)
    else:
        network = frozen(imagenet((4,)) if network is None else network)
        if options.attack_eps > 0:
            network = harden(network, lesson, options)
    with torch.no_grad():
        bank = [described(network, resize(images, options.view_px)) for images in lesson.images()]
    return RobustKnn(lesson.size_px, network, options, torch.cat(bank))
