"""OCR-GAN's own parts: the split by frequency, and channel selection."""

from __future__ import annotations

import torch
from toy_models import generator, random_images, stack

from advrad.baselines.base import FitContext
from advrad.baselines.ocrgan import ChannelSelection, OcrGanOptions, TwoBranches, decouple, fit_ocrgan


def test_coarse_and_fine_add_up_to_the_image() -> None:
    images = random_images(2, dtype=torch.float64)
    coarse, fine = decouple(images)
    assert coarse.shape == fine.shape == images.shape
    assert torch.allclose(coarse + fine, images, atol=1e-15)
    # White noise has three quarters of its power above half of the highest frequency.
    assert float(fine.var()) > 2 * float(coarse.var()) > 0


def test_what_is_smooth_is_coarse_and_what_alternates_is_fine() -> None:
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    ramp = (0.02 * x - 0.01 * y).expand(1, 3, 32, 32)
    # Away from the borders there is no shift, not even of half a pixel.
    assert float(decouple(ramp)[1][..., 4:-4, 4:-4].abs().max()) < 1e-6
    checks = ((x + y) % 2 * 2 - 1).expand(1, 3, 32, 32)
    assert float(decouple(checks)[0][..., 4:-4, 4:-4].abs().max()) < 1e-6


def test_channel_selection_shares_every_channel_out() -> None:
    torch.manual_seed(0)
    select = ChannelSelection(8)
    features = torch.randn(2, 8, 4, 4, generator=generator())
    low, high = select(features, features)
    assert torch.allclose(low + high, features, atol=1e-6)
    shares = (low / features).mean((2, 3))
    assert bool(((shares > 0) & (shares < 1)).all())
    assert not torch.allclose(shares[0], shares[1])  # the weights depend on the image
    assert not torch.allclose(shares[:, :1], shares[:, 1:])  # and on the channel


def test_both_branches_reach_the_reconstruction() -> None:
    torch.manual_seed(0)
    network = TwoBranches((8, 16)).eval()
    images = random_images(1).requires_grad_()
    recon = network(images)
    assert recon.shape == images.shape
    (gradient,) = torch.autograd.grad(recon.sum(), images, retain_graph=True)
    assert float(gradient.abs().min()) > 0
    for part in (network.low, network.high, network.low_decoder, network.high_decoder, network.selections):
        gradients = torch.autograd.grad(recon.square().sum(), list(part.parameters()), retain_graph=True)
        assert all(float(one.abs().max()) > 0 for one in gradients)


def test_fit() -> None:
    options = OcrGanOptions(work_px=32, channels=(8, 16), steps=2)
    assert options.negatives
    assert (options.adversarial_weight, options.context_weight, options.latent_weight) == (1, 50, 1)
    detector = fit_ocrgan(FitContext(stack()), options)
    assert isinstance(detector.generator, TwoBranches)
    assert bool(torch.isfinite(detector.infer(random_images(2), generator()).scores).all())
