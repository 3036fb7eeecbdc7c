"""What a file says of a denoiser becomes that denoiser."""

from __future__ import annotations

from toys import TINY

from advrad.lean import LeanDenoiser
from advrad.settings import build_denoiser


def test_build_denoiser_makes_the_kind_that_is_named() -> None:
    assert isinstance(build_denoiser(TINY), LeanDenoiser)
    assert build_denoiser(TINY).config == TINY
