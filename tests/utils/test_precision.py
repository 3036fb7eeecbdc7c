"""Which arithmetic is taken on which processor."""

from __future__ import annotations

import pytest
import torch

import advrad.utils.precision
from advrad.utils.precision import bfloat16_is_native, takes_bfloat16


def test_a_device_of_another_kind_has_no_bfloat16() -> None:
    assert bfloat16_is_native(torch.device("meta")) is False


@pytest.mark.parametrize("native", [False, True])
def test_what_is_asked_for_is_taken_and_otherwise_what_is_native(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advrad.utils.precision, "bfloat16_is_native", lambda device: native)
    device = torch.device("cpu")
    assert takes_bfloat16("auto", device) is native
    assert takes_bfloat16("bfloat16", device) is True
    assert takes_bfloat16("float32", device) is False
