import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from storage.stores.spec import ArraySpec

SHAPES = arrays.array_shapes(min_dims=0, max_dims=3, max_side=3)
DTYPES = st.sampled_from(["uint8", "int32", "float16", "float32", "bool"])


def spec(dtype: str = "float32", shape: tuple[int, ...] = (2, 3), fill: float = 0) -> ArraySpec:
    return ArraySpec("depth", dtype, tuple("abc"[: len(shape)]), shape, "m", "", fill=fill)


@given(dtype=DTYPES, shape=SHAPES, other_dtype=DTYPES, other_shape=SHAPES)
def test_only_its_own_dtype_and_shape_pass(dtype, shape, other_dtype, other_shape):
    array = np.ones(other_shape, other_dtype)
    if (dtype, shape) == (other_dtype, other_shape):
        spec(dtype, shape).check(array, "c")
    else:
        with pytest.raises(ValueError, match=r"clip c: array 'depth' is .*its spec says"):
            spec(dtype, shape).check(array, "c")


def test_the_error_says_clip_array_found_and_expected():
    with pytest.raises(ValueError) as error:
        spec().check(np.zeros((3, 2), np.float64), "e81")
    for word in ("e81", "depth", "float64[3, 2]", "float32[2, 3]"):
        assert word in str(error.value)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_counted(dtype, value):
    array = np.ones((2, 3), dtype)
    array[1, :2] = value
    with pytest.raises(
        ValueError, match="clip c: array 'depth' has 2 of 6 values that are NaN or infinite"
    ):
        spec(dtype).check(array, "c")


def test_holes_are_data_where_the_fill_is_nan():
    spec(fill=math.nan).check(np.full((2, 3), math.nan, np.float32), "c")


def test_axes_and_shape_belong_together():
    with pytest.raises(ValueError, match=r"array 'depth': axes \('h',\) and shape \(2, 3\)"):
        ArraySpec("depth", "float32", ("h",), (2, 3), "m", "")
