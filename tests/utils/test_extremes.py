"""Tests of the places of least and greatest values."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from advrad.utils.extremes import greatest_with_place, place_of_least

TYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", TYPES)
@given(
    values=hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=1, max_dims=3, max_side=9),
        elements=st.sampled_from([-np.inf, -1.5, -0.0, 0.0, 0.25, 1.5, np.inf]),
    )
)
def test_the_first_of_the_least_and_of_the_greatest_values_is_found(dtype, values):
    tensor = torch.from_numpy(values).to(dtype)
    assert place_of_least(tensor).tolist() == values.argmin(-1).tolist()
    greatest, place = greatest_with_place(tensor)
    assert place.tolist() == values.argmax(-1).tolist()
    assert torch.equal(greatest, tensor.amax(-1))
    assert place.dtype == place_of_least(tensor).dtype == torch.int64


@pytest.mark.parametrize("dtype", TYPES)
def test_what_is_not_a_number_is_not_passed_over(dtype):
    values = torch.tensor([[1.0, torch.nan, 0.0], [2.0, 1.0, 3.0]], dtype=dtype)
    assert place_of_least(values).tolist() == [1, 1]
    greatest, place = greatest_with_place(values)
    assert place.tolist() == [1, 2] and bool(greatest[0].isnan()) and float(greatest[1]) == 3


def test_rows_in_another_order_in_memory_are_read_as_they_are():
    values = torch.arange(12.0).view(3, 4).T  # (4, 3), not contiguous
    assert place_of_least(values).tolist() == [0, 0, 0, 0]
    assert greatest_with_place(values)[0].tolist() == [8, 9, 10, 11]


def test_values_with_gradients_keep_them():
    values = torch.tensor([[1.0, 3.0, 2.0]], requires_grad=True)
    greatest_with_place(values)[0].sum().backward()
    assert values.grad.tolist() == [[0, 1, 0]]
