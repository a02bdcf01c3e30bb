"""The CUDA kernels' arithmetic where there is no GPU: the same sources, compiled for the host.

``cuda_emulation/runtime.h`` runs a grid's blocks one after another and a block's threads as fibers with true
barriers and shuffles. Buffers lie between guards, scratch and outputs start as NaN, loads are checked, and results
must be the same bits for other orders of threads and blocks. Memory ordering within a warp, speed, and what nvcc
makes of the sources only a GPU can tell.
"""

from __future__ import annotations

import ctypes
import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from cuda_emulation.cases import (
    ACTIVATIONS,
    ALL_DTYPES,
    DTYPES,
    NONE,
    ORDERS,
    Case,
    Data,
    check,
    check_chain,
    expected,
    load,
    run,
)
from hypothesis import given, settings
from hypothesis import strategies as st


@pytest.fixture(scope="session")
def kernels() -> ctypes.CDLL:
    return load()


LAYOUTS = pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
UPSAMPLES = pytest.mark.parametrize("up", [1, 2])


@LAYOUTS
@UPSAMPLES
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("groups", [0, 3, 6, NONE], ids=["batch", "group", "instance", "none"])
def test_every_option(kernels: ctypes.CDLL, channels_last: bool, up: int, dtype: torch.dtype, groups: int) -> None:
    activations = (("leaky", 1), ("relu", 0), ("leaky", 0.2), ("silu", 0))
    for (activation, slope), absolute, masked in itertools.product(activations, (False, True), (True, False)):
        case = Case(2, 6, 3, 5, up, groups, channels_last, dtype, activation, slope, absolute, masked)
        check(kernels, case, orders=(0,), constant=groups == NONE)


@LAYOUTS
@UPSAMPLES
@pytest.mark.parametrize("own", ALL_DTYPES, ids=str)
def test_parameters_masks_and_running_statistics_in_their_own_dtype(
    kernels: ctypes.CDLL, channels_last: bool, up: int, own: torch.dtype
) -> None:
    for dtype, shape in itertools.product(DTYPES, ((3, 5, 3, 6), (2, 72, 8, 8))):
        for absolute in (False, True):
            case = Case(*shape, up, 0, channels_last, dtype, absolute=absolute, own=own)
            check(kernels, case, orders=(0,))


@LAYOUTS
@UPSAMPLES
@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 2, 2),  # next to nothing
        (3, 3, 1, 1),
        (2, 65, 3, 5),  # a channel more than a block's
        (1, 130, 4, 4),
        (1, 264, 2, 8),  # 16-byte vectors in both layouts, more channels than a block of either
        (10, 8, 4, 8),  # more samples than warps
        (1, 3, 40, 33),  # more than a tile of pixels, no multiple of a vector
        (1, 4, 72, 64),  # 16-byte vectors, several blocks and parts
    ],
    ids=str,
)
def test_shapes(kernels: ctypes.CDLL, channels_last: bool, up: int, shape: tuple[int, int, int, int]) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        check(kernels, Case(*shape, up, channels_last=channels_last, dtype=dtype))


@UPSAMPLES
def test_blocks_that_loop_over_strips(kernels: ctypes.CDLL, up: int) -> None:
    """A large map makes as many blocks as keep a GPU busy, and each of them takes several strips of pixels."""
    check(kernels, Case(1, 2, 2, 66000, up))


@LAYOUTS
@UPSAMPLES
@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4)], ids=str)
def test_empty_maps_have_zero_sums(
    kernels: ctypes.CDLL, channels_last: bool, up: int, shape: tuple[int, int, int, int]
) -> None:
    for groups in (0, 1) if shape[1] else (0,):
        check(kernels, Case(*shape, up, groups, channels_last=channels_last))


@LAYOUTS
@UPSAMPLES
@pytest.mark.parametrize("pairs", [1, 2, 3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_chains(kernels: ctypes.CDLL, channels_last: bool, up: int, pairs: int, dtype: torch.dtype) -> None:
    for shape in ((2, 5, 3, 7), (2, 72, 8, 8), (1, 3, 64, 66), (0, 3, 4, 4)):
        for activation, own in (("leaky", torch.float32), ("relu", dtype), ("silu", torch.float32)):
            case = Case(*shape, up, NONE, channels_last, dtype, activation, absolute=True, masked=False, own=own)
            check_chain(kernels, case, pairs)


@LAYOUTS
@UPSAMPLES
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("groups", [0, 1, NONE], ids=["batch", "group", "none"])
def test_parameters_that_are_maps(
    kernels: ctypes.CDLL, channels_last: bool, up: int, dtype: torch.dtype, groups: int
) -> None:
    forms = (("leaky", False), ("relu", True), ("silu", False))
    for shape, (activation, absolute) in itertools.product(((3, 5, 3, 7), (2, 72, 8, 8), (1, 3, 48, 66)), forms):
        case = Case(*shape, up, groups, channels_last, dtype, activation, absolute=absolute, maps=True)
        check(kernels, case, constant=groups == NONE)
        if groups == 0:
            check(kernels, case, given=True, fused=False)
            check(kernels, case, given=True, constant=True)


@LAYOUTS
@UPSAMPLES
@pytest.mark.parametrize("groups", [0, 2], ids=["batch", "group"])
def test_given_statistics_and_gradients_not_asked_for(
    kernels: ctypes.CDLL, channels_last: bool, up: int, groups: int
) -> None:
    case = Case(2, 4, 6, 8, up, groups, channels_last)
    check(kernels, case, given=True, constant=True)
    check(kernels, case, given=True, fused=False, need_dmask=False)
    check(kernels, case, fused=False)


@LAYOUTS
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 4, 160, 160)], ids=str)
@pytest.mark.parametrize("groups", [0, 1], ids=["batch", "group"])
def test_a_mean_far_from_zero(
    kernels: ctypes.CDLL, channels_last: bool, shape: tuple[int, int, int, int], groups: int
) -> None:
    check(kernels, Case(*shape, 1, groups, channels_last, mean=1e4), orders=(0,), tolerance=1e-4)


@LAYOUTS
def test_an_outlier_costs_no_digits(kernels: ctypes.CDLL, channels_last: bool) -> None:
    case = Case(1, 4, 96, 96, channels_last=channels_last)
    data = Data(case)
    data.x[:, :, 0, 0] = 1e4  # where sums could be shifted by it
    truth = expected(data, None, False)
    got = run(kernels, case, 0, data, None, False, False, True)
    np.testing.assert_allclose(got["mean"], truth["mean"], atol=1e-5 * np.sqrt(truth["var"].max()))
    np.testing.assert_allclose(got["var"], truth["var"], rtol=1e-5)


@LAYOUTS
@UPSAMPLES
def test_memory_that_is_not_aligned(kernels: ctypes.CDLL, channels_last: bool, up: int) -> None:
    check(kernels, Case(2, 8, 4, 8, up, channels_last=channels_last, unaligned=True))


@LAYOUTS
@UPSAMPLES
def test_any_order_of_threads_gives_the_same_bits(kernels: ctypes.CDLL, channels_last: bool, up: int) -> None:
    case = Case(2, 72, 8, 16, up, 8, channels_last)
    for dtype in DTYPES:
        check(kernels, replace(case, dtype=dtype), orders=ORDERS)


@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 40), st.integers(1, 12), st.integers(2, 12)),
    up=st.sampled_from([1, 2]),
    statistics=st.sampled_from(["batch", "instance", "group", "none"]),
    channels_last=st.booleans(),
    dtype=st.sampled_from(list(DTYPES)),
    own=st.sampled_from(list(ALL_DTYPES)),
    activation=st.sampled_from(list(ACTIVATIONS)),
    absolute=st.booleans(),
    masked=st.booleans(),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_drawn_shapes(
    kernels: ctypes.CDLL,
    shape: tuple[int, int, int, int],
    up: int,
    statistics: str,
    channels_last: bool,
    dtype: torch.dtype,
    own: torch.dtype,
    activation: str,
    absolute: bool,
    masked: bool,
) -> None:
    groups = {"batch": 0, "instance": shape[1], "group": 1, "none": NONE}[statistics]
    case = Case(*shape, up, groups, channels_last, dtype, activation, 0.2, absolute, masked, own)
    check(kernels, case, orders=(0,), constant=groups == NONE)
