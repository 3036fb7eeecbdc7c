"""Skip-GANomaly's U-Net, which has skip connections at all levels."""

from __future__ import annotations

import torch
from toy_models import generator, random_images, stack

from advrad.baselines.base import FitContext
from advrad.baselines.gan import Decoder
from advrad.baselines.skipgan import SkipGanOptions, UNet, fit_skipgan


def test_every_level_reaches_the_reconstruction() -> None:
    torch.manual_seed(0)
    decoder = Decoder((8, 16, 32)).eval()
    features = [torch.randn(2, 8 * 2**i, 16 // 2**i, 16 // 2**i, generator=generator(i)) for i in range(3)]
    whole = decoder(features)
    assert whole.shape == (2, 3, 32, 32)
    for level in range(3):
        without = [part * (i != level) for i, part in enumerate(features)]
        assert not torch.allclose(decoder(without), whole, atol=1e-3)


def test_white_and_black_can_be_reached() -> None:
    """No tanh at the end: the output follows the last layer's bias beyond [-1, 1]."""
    network = UNet((8,)).eval().requires_grad_(False)
    torch.nn.init.constant_(network.decoder.head.bias, 5.0)
    assert float(network(random_images(1)).mean()) > 3


def test_fit() -> None:
    options = SkipGanOptions(work_px=32, channels=(8, 16), steps=2)
    assert not options.negatives
    assert (options.adversarial_weight, options.context_weight, options.latent_weight) == (1, 40, 1)
    detector = fit_skipgan(FitContext(stack()), options)
    assert isinstance(detector.generator, UNet)
    assert bool(torch.isfinite(detector.infer(random_images(2), generator()).scores).all())
