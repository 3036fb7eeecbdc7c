"""Nearest neighbours among adversarially robust features.

The paper uses networks that were trained adversarially on labelled ImageNet. Set ``weights`` to load such weights from
a local file. Otherwise an ordinary ImageNet network is fine-tuned here so that the feature of an attacked image stays
close to the ordinary network's feature of the clean image. That needs no labels, but it sees only normal images of this
product and synthetic defects on them, for minutes in place of days on ImageNet. It is less robust and less general than
the paper's weights, and its figures should be read that way.

Source: Mirzaei et al. 2024, "Killing It With Zero-Shot: Adversarially Robust Novelty Detection" (ZARND); fine-tuning:
Schlarmann et al. 2024, "Robust CLIP: Unsupervised Adversarial Fine-Tuning of Vision Embeddings for Robust Large
Vision-Language Models" (FARE).
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn

from advrad.baselines.base import BaselineDetector, FitContext, freeze, train_network
from advrad.baselines.features import Radius, adversarial_examples, imagenet_network
from advrad.data.synthetic import paste_defects
from advrad.data.transforms import resize
from advrad.detectors.base import DetectorOutput
from advrad.detectors.nearest import nearest_neighbours
from advrad.errors import ConfigError
from advrad.utils.config import Config

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
#: Prefixes that training code adds to the names of a network's parameters.
_PREFIXES = ("module.", "model.", "attacker.")


class RobustKnnOptions(Config):
    """Options of the robust nearest neighbours.

    Attributes:
        neighbours: Number of neighbours whose distances are averaged; all normal images if there are fewer.
        view_px: Side at which the network works, in pixels; 224 in the paper.
        weights: Local safetensors file of robust weights; None fine-tunes ordinary weights.
        backbone: timm name of the network that ``weights`` belong to.
        attack_eps: Radius of the ``linf`` ball during fine-tuning, in [0, 1] pixel units; 0 keeps the ordinary network.
        attack_steps: Gradient steps of the attack on each batch; 10 in FARE.
        steps: Number of fine-tuning steps; FARE takes two epochs of ImageNet.
        batch_size: Number of images per step.
        learning_rate: Initial learning rate.
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
    """Fitted nearest neighbours. As in the paper, it scores whole images and gives no maps.

    Args:
        size_px: Side of the images in pixels.
        network: Feature network, see :mod:`advrad.baselines.features`; its last map is averaged.
        options: Options of the system.
        bank: Features of the normal images, (n, c).
    """

    bank: Tensor

    def __init__(self, size_px: int, network: nn.Module, options: RobustKnnOptions, bank: Tensor) -> None:
        super().__init__(size_px)
        self.network, self.options = freeze(network), options
        self.register_buffer("bank", bank)

    def infer(self, images: Tensor, generator: torch.Generator) -> DetectorOutput:
        """See :class:`advrad.detectors.base.AnomalyDetector`; mean squared distance to the nearest neighbours."""
        features = global_features(self.network, resize(images, self.options.view_px))
        return DetectorOutput(nearest_neighbours(features, self.bank, self.options.neighbours)[0].mean(1))


def global_features(network: nn.Module, images: Tensor) -> Tensor:
    """Image features, (b, 3, h, w) in [0, 1] -> (b, c): the mean of the network's last feature map."""
    last: Tensor = network(images)[-1]
    return last.mean((2, 3))


def finetune_adversarially(network: nn.Module, context: FitContext, options: RobustKnnOptions) -> nn.Module:
    """Fine-tune a copy of a network so that attacks change its features less.

    Half of each batch is normal images, the other half has synthetic defects, so that features of defects are preserved
    as well. The loss is the largest squared distance to the ordinary feature, relative to the variance of the features
    over images. The statistics of batch normalisation do not change.

    Args:
        network: Ordinary frozen network; it is not changed.
        context: Training images.
        options: Options of the fine-tuning.
    """
    tuned = copy.deepcopy(network).eval().requires_grad_(True)
    with torch.no_grad():
        usual = torch.cat([global_features(network, resize(part, options.view_px)) for part in context.images()])
        spread = usual.var(0, correction=0).sum().clamp_min(1e-12)

    def loss(images: Tensor, generator: torch.Generator) -> Tensor:
        images = resize(images, options.view_px).clamp(0, 1)  # antialiasing can leave [0, 1]; no gradient is needed
        half = max(1, len(images) // 2)
        seeds = torch.randint(2**62, (half,), generator=generator).tolist()
        images = torch.cat([paste_defects(images[:half], images.flip(0)[:half], seeds)[0], images[half:]])
        with torch.no_grad():
            place = global_features(network, images)

        def moved(images: Tensor) -> Tensor:
            return (global_features(tuned, images) - place).square().sum(1) / spread

        return moved(adversarial_examples(moved, images, options.attack_eps, options.attack_steps, generator)).mean()

    train_network(
        loss,
        tuned.parameters(),
        context,
        steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        weight_decay=1e-4,
    )
    return freeze(tuned)


class NormalisedNetwork(nn.Module):
    """A timm feature network that takes images in [0, 1].

    Args:
        maps: Feature network that expects ImageNet's normalisation.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, maps: nn.Module) -> None:
        super().__init__()
        self.maps = maps
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(_STD)[:, None, None])

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute the feature maps: (b, 3, h, w) in [0, 1] -> list of (b, c, h', w')."""
        maps: list[Tensor] = self.maps((images - self.mean) / self.std)
        return maps


def load_network(backbone: str, weights: Path) -> nn.Module:
    """Load a timm network with weights from a file; needs timm.

    Args:
        backbone: timm name of the network.
        weights: Safetensors file with the network's parameters under timm's names, with or without the prefixes of
            training code. The classifier head is ignored. Pickle files are refused, since loading one can run code.

    Raises:
        ConfigError: timm is missing, or the file cannot be read or belongs to another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        import timm
    except ImportError:
        raise ConfigError("weights: loading a network needs timm; install advrad[anomalib]") from None
    try:
        maps: nn.Module = timm.create_model(backbone, pretrained=False, features_only=True)
    except (RuntimeError, AttributeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"backbone: {backbone} is not a timm network that returns features ({reason})") from None
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
    return freeze(NormalisedNetwork(maps))


def _bare(name: str) -> str:
    """Remove the prefixes of training code from a parameter's name."""
    for prefix in _PREFIXES * len(_PREFIXES):
        name = name.removeprefix(prefix)
    return name


def fit_robust_knn(context: FitContext, options: RobustKnnOptions, network: nn.Module | None = None) -> RobustKnn:
    """Load or fine-tune robust features, and store those of the normal images.

    Args:
        context: Training images.
        options: Options of the system.
        network: Ordinary feature network to fine-tune, see :mod:`advrad.baselines.features`; None for
            :func:`imagenet_network`.

    Raises:
        ConfigError: ``weights`` cannot be used.
    """
    if options.weights is not None:
        network = load_network(options.backbone, options.weights)
    else:
        network = freeze(imagenet_network((4,)) if network is None else network)
        if options.attack_eps > 0:
            network = finetune_adversarially(network, context, options)
    with torch.no_grad():
        bank = [global_features(network, resize(images, options.view_px)) for images in context.images()]
    return RobustKnn(context.size_px, network, options, torch.cat(bank))
