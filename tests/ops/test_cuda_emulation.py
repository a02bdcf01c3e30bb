"""The CUDA kernels' arithmetic where there is no GPU: the same sources, compiled for the host.

``cuda_emulation/runtime.h`` runs a grid's blocks one after another and a block's threads as fibers with true
barriers and shuffles. Buffers lie between guards, scratch and outputs start as NaN, loads are checked, and results
must be the same bits for other orders of threads and blocks. Memory ordering within a warp, speed, and what nvcc
makes of the sources only a GPU can tell.
"""

from __future__ import annotations

import ctypes
import itertools
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

HERE = Path(__file__).parent / "cuda_emulation"
FLAGS = ("-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-shared", "-U_FORTIFY_SOURCE", "-Wno-unknown-pragmas")
EPS = 1e-5
ORDERS = (0, 1, 5)  # of threads and blocks: as numbered, from the last, mixed up
DTYPES = {torch.float32: 0, torch.float16: 2, torch.bfloat16: 3}  # as problem.h's DType
TOLERANCE = {torch.float32: 3e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
GUARD = 256  # bytes, and what buffers are aligned to


def c_struct(name: str, *fields: tuple[type, str]) -> type[ctypes.Structure]:
    pairs = [(name, type_) for type_, names in fields for name in names.split()]
    return type(name, (ctypes.Structure,), {"_fields_": pairs})


Problem = c_struct(
    "Problem",
    (ctypes.c_int64, "n c h w up groups"),
    (ctypes.c_bool, "channels_last maps absolute"),
    (ctypes.c_int, "activation dtype gamma_dtype beta_dtype mask_dtype"),
    (ctypes.c_double, "eps slope"),
)
Running = c_struct(
    "Running",
    (ctypes.c_void_p, "mean var"),
    (ctypes.c_int, "dtype"),
    (ctypes.c_double, "momentum"),
    (ctypes.c_int64, "repeats"),
)
Forward = c_struct(
    "Forward",
    (ctypes.c_void_p, "x gamma beta mask"),
    (ctypes.c_bool, "given"),
    (ctypes.c_void_p, "mean var"),
    (Running, "running"),
    (ctypes.c_void_p, "y"),
)
Backward = c_struct(
    "Backward",
    (ctypes.c_void_p, "dy x gamma beta mask mean var"),
    (ctypes.c_bool, "reduce input constant"),
    (ctypes.c_void_p, "sums dgamma dbeta dmask dx"),
)


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("the emulation is C++ and there is no g++")
    library = tmp_path_factory.mktemp("cuda_emulation") / "driver.so"
    subprocess.run([compiler, *FLAGS, str(HERE / "driver.cpp"), "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.size_of.restype = loaded.scratch_bytes.restype = ctypes.c_int64
    for function in (loaded.statistics, loaded.forward, loaded.backward):
        function.restype = ctypes.c_char_p
    assert [loaded.size_of(i) for i in range(3)] == [ctypes.sizeof(s) for s in (Problem, Forward, Backward)]
    return loaded


@dataclass(frozen=True)
class Case:
    n: int
    c: int
    h: int
    w: int
    up: int = 1
    groups: int = 0
    channels_last: bool = False
    dtype: torch.dtype = torch.float32
    slope: float = 0.2
    masked: bool = True
    mean: float = 0.5  # of x, whose deviation is 1
    unaligned: bool = False  # buffers start 4 bytes beyond a multiple of 16

    def problem(self) -> Any:
        shape = (self.n, self.c, self.h, self.w, self.up)
        activation = 1 if self.slope == 0 else 0  # problem.h's relu and leaky
        forms = self.channels_last, False, False
        return Problem(*shape, self.groups, *forms, activation, DTYPES[self.dtype], 0, 0, 0, EPS, self.slope)

    def map_shape(self, up: int) -> tuple[int, ...]:
        return (self.n, self.c, up * self.h, up * self.w)

    @property
    def statistics(self) -> int:
        return self.n * self.groups if self.groups else self.c

    def spread(self, statistics: np.ndarray) -> np.ndarray:
        """Of each sample's channel: (N, C, 1, 1)."""
        if self.groups:
            return statistics.reshape(self.n, self.groups).repeat(self.c // self.groups, 1)[:, :, None, None]
        return np.broadcast_to(statistics, (self.n, self.c))[:, :, None, None]

    def gather(self, values: np.ndarray) -> np.ndarray:
        """Sums over all that share a statistic, of (N, C, H, W)."""
        if self.groups:
            return (
                values.reshape(self.n, self.groups, self.c // self.groups, *values.shape[2:])
                .sum((2, 3, 4))
                .ravel()
            )
        return values.sum((0, 2, 3))


class Buffers:
    """Named memory of one call, each between guards of NaN, which must still be there at the end."""

    def __init__(self, kernels: ctypes.CDLL, case: Case) -> None:
        self.kernels, self.case = kernels, case
        self.memory: dict[str, tuple[Tensor, int, int]] = {}
        kernels.clear_buffers()

    def new(self, name: str, size: int) -> int:
        whole = torch.full((size + 4 * GUARD,), 0xFF, dtype=torch.uint8)
        start = 2 * GUARD - whole.data_ptr() % GUARD
        if self.case.unaligned and name in ("x", "dy", "mask", "y", "dx"):
            start += 4
        self.memory[name] = whole, start, size
        address = whole.data_ptr() + start
        self.kernels.add_buffer(ctypes.c_void_p(address), ctypes.c_int64(size))
        return address

    def put(self, name: str, values: Tensor) -> int:
        if values.dim() == 4 and self.case.channels_last:
            values = values.permute(0, 2, 3, 1)
        raw = (
            values.contiguous().flatten().view(torch.uint8)
            if values.numel()
            else torch.empty(0, dtype=torch.uint8)
        )
        address = self.new(name, raw.numel())
        whole, start, size = self.memory[name]
        whole[start : start + size] = raw
        return address

    def get(self, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> np.ndarray:
        whole, start, size = self.memory[name]
        values = whole[start : start + size].clone().view(dtype)
        if len(shape) == 4 and self.case.channels_last:
            n, c, h, w = shape
            values = values.view(n, h, w, c).permute(0, 3, 1, 2)
        return values.reshape(shape).double().numpy()

    def check_guards(self) -> None:
        for name, (whole, start, size) in self.memory.items():
            outside = torch.cat([whole[:start], whole[start + size :]])
            assert (outside == 0xFF).all(), f"{name} was written outside"


@dataclass
class Data:
    """Inputs of a case as tensors of its dtypes, and their exact values in float64."""

    case: Case
    x: Tensor = field(init=False)
    dy: Tensor = field(init=False)
    gamma: Tensor = field(init=False)
    beta: Tensor = field(init=False)
    mask: Tensor | None = field(init=False)

    def __post_init__(self) -> None:
        case, generator = self.case, torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        self.x = (normal(*case.map_shape(1)) + case.mean).to(case.dtype)
        self.dy = normal(*case.map_shape(case.up)).to(case.dtype)
        self.gamma, self.beta = normal(case.n, case.c), normal(case.n, case.c)
        high = (case.n, 1, case.up * case.h, case.up * case.w)
        self.mask = torch.rand(high, generator=generator) if case.masked else None


def expected(data: Data, given: tuple[np.ndarray, np.ndarray] | None, constant: bool) -> dict[str, np.ndarray]:
    """Everything in float64, by formulas over the upsampled map, which the kernels never see."""
    case = data.case
    x, dy, gamma, beta = (t.double().numpy() for t in (data.x, data.dy, data.gamma, data.beta))
    mask = 1.0 if data.mask is None else data.mask.double().numpy()
    x = x.repeat(case.up, 2).repeat(case.up, 3)
    gamma, beta = gamma[:, :, None, None], beta[:, :, None, None]
    count = max(case.gather(np.ones_like(x)).max(initial=0), 1)
    if given is None:
        mean = case.gather(x) / count
        var = case.gather((x - case.spread(mean)) ** 2) / count
    else:
        mean, var = given
    r = 1 / np.sqrt(case.spread(var) + EPS)
    xhat = (x - case.spread(mean)) * r
    a = 1 + gamma * mask
    z = a * xhat + beta * mask
    # Where z is all but 0 rounding decides on its sign: no gradient comes from there.
    dy = np.where(np.abs(z) < 1e-4, 0, dy)
    data.dy = torch.from_numpy(dy).to(case.dtype)
    dz = dy * np.where(z > 0, 1, case.slope)
    sums = np.stack([case.gather(dz * a), case.gather(dz * a * xhat)])
    k = sums * (not constant) / count
    dx = r * (dz * a - case.spread(k[0]) - xhat * case.spread(k[1]))
    return {
        "mean": mean,
        "var": var,
        "y": np.where(z > 0, z, case.slope * z),
        "sums": sums,
        "dgamma": (dz * mask * xhat).sum((2, 3)),
        "dbeta": (dz * mask).sum((2, 3)),
        "dmask": (dz * (gamma * xhat + beta)).sum(1, keepdims=True),
        "dx": dx.reshape(case.n, case.c, case.h, case.up, case.w, case.up).sum((3, 5)),
    }


def run(
    kernels: ctypes.CDLL,
    case: Case,
    order: int,
    data: Data,
    given: tuple[np.ndarray, np.ndarray] | None,
    constant: bool,
    need_dmask: bool,
    fused: bool,
) -> dict[str, np.ndarray]:
    """Forward and backward. Not ``fused``: the sums and dx by two calls, as with synchronised statistics."""
    buffers, problem, k = Buffers(kernels, case), case.problem(), case.statistics
    float32, float64 = torch.float32, torch.float64
    scratch = buffers.new("scratch", kernels.scratch_bytes(ctypes.byref(problem)))

    def call(function: Callable[..., bytes | None], arguments: Any) -> None:
        whole, start, size = buffers.memory["scratch"]
        whole[start : start + size] = 0xFF
        error = function(ctypes.byref(problem), ctypes.byref(arguments), ctypes.c_void_p(scratch), order)
        assert error is None, error

    x, gamma, beta = (buffers.put(name, getattr(data, name)) for name in ("x", "gamma", "beta"))
    mask = None if data.mask is None else buffers.put("mask", data.mask)
    if given is None:
        mean, var = buffers.new("mean", 8 * k), buffers.new("var", 8 * k)
    else:
        mean, var = (
            buffers.put(name, torch.from_numpy(v)) for name, v in zip(("mean", "var"), given, strict=True)
        )
    y = buffers.put("y", torch.full(case.map_shape(case.up), torch.nan, dtype=case.dtype))
    call(kernels.forward, Forward(x, gamma, beta, mask, given is not None, mean, var, Running(), y))

    dy = buffers.put("dy", data.dy)
    sums, dgamma = buffers.new("sums", 16 * k), buffers.new("dgamma", 4 * case.n * case.c)
    dbeta, dmask = buffers.new("dbeta", 4 * case.n * case.c), None
    if need_dmask and data.mask is not None:
        dmask = buffers.new("dmask", 4 * data.mask.numel())
    dx = buffers.put("dx", torch.full(case.map_shape(1), torch.nan, dtype=case.dtype))
    inputs, outputs = (dy, x, gamma, beta, mask, mean, var), (dgamma, dbeta, dmask, dx)
    if fused:
        call(kernels.backward, Backward(*inputs, True, True, constant, sums, *outputs))
    else:
        call(kernels.backward, Backward(*inputs, True, False, constant, sums, *outputs[:3], None))
        ratios = buffers.get("sums", float64, (2, k)) / max(case.n * case.c * case.h * case.w / max(k, 1), 1)
        given_k = buffers.put("k", torch.from_numpy(ratios))
        call(kernels.backward, Backward(*inputs, False, True, constant, given_k, None, None, None, dx))
    buffers.check_guards()
    results = {
        "mean": buffers.get("mean", float64, (k,)),
        "var": buffers.get("var", float64, (k,)),
        "y": buffers.get("y", case.dtype, case.map_shape(case.up)),
        "sums": buffers.get("sums", float64, (2, k)),
        "dgamma": buffers.get("dgamma", float32, (case.n, case.c)),
        "dbeta": buffers.get("dbeta", float32, (case.n, case.c)),
        "dx": buffers.get("dx", case.dtype, case.map_shape(1)),
    }
    if dmask is not None:
        results["dmask"] = buffers.get("dmask", float32, (case.n, 1, case.up * case.h, case.up * case.w))
    return results


def check(
    kernels: ctypes.CDLL,
    case: Case,
    *,
    orders: tuple[int, ...] = ORDERS[:2],
    given: bool = False,
    constant: bool = False,
    need_dmask: bool = True,
    fused: bool = True,
    tolerance: float | None = None,
) -> None:
    data = Data(case)
    statistics = None
    if given:
        generator = np.random.default_rng(1)
        statistics = generator.normal(size=case.statistics), generator.uniform(0.5, 2, case.statistics)
    truth = expected(data, statistics, constant)
    first, *others = (run(kernels, case, o, data, statistics, constant, need_dmask, fused) for o in orders)
    assert ("dmask" in first) == (need_dmask and case.masked)
    for name, got in first.items():
        tight = TOLERANCE[torch.float32] if name not in ("y", "dx") else TOLERANCE[case.dtype]
        largest = np.abs(truth[name]).max(initial=1e-3)
        error = np.abs(got - truth[name]).max(initial=0) / largest
        assert error <= (tolerance or tight), f"{name} is off by {error:.2g} of {largest:.3g} for {case}"
        for other in others:
            np.testing.assert_array_equal(other[name], got, f"{name} depends on the order of threads or blocks")


LAYOUTS = pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
UPSAMPLES = pytest.mark.parametrize("up", [1, 2])


@LAYOUTS
@UPSAMPLES
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("groups", [0, 3, 6], ids=["batch", "group", "instance"])
def test_every_option(kernels: ctypes.CDLL, channels_last: bool, up: int, dtype: torch.dtype, groups: int) -> None:
    for masked, slope in itertools.product((True, False), (1, 0, 0.2)):
        check(kernels, Case(2, 6, 3, 5, up, groups, channels_last, dtype, slope, masked), orders=(0,))


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
    statistics=st.sampled_from(["batch", "instance", "group"]),
    channels_last=st.booleans(),
    dtype=st.sampled_from(list(DTYPES)),
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
    masked: bool,
) -> None:
    groups = {"batch": 0, "instance": shape[1], "group": 1}[statistics]
    check(kernels, Case(*shape, up, groups, channels_last, dtype, masked=masked), orders=(0,))
