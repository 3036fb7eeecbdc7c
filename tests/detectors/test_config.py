"""What a file says of a denoiser becomes that denoiser."""

from __future__ import annotations

from toy_models import TINY

from advrad.denoisers.factory import build_denoiser
from advrad.denoisers.lean import LeanDenoiser


def test_build_denoiser_makes_the_kind_that_is_named() -> None:
    assert isinstance(build_denoiser(TINY), LeanDenoiser)
    assert build_denoiser(TINY).config == TINY
