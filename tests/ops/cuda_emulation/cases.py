"""Calls of the kernels in the emulation: their memory, their data and what must come out of them."""

from __future__ import annotations

import ctypes
import itertools
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import formula
import numpy as np
import pytest
import torch
from torch import Tensor

from t2ilayers.ops import _cache, build
from t2ilayers.ops._compilers import digest

HERE = Path(__file__).parent
FLAGS = ("-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-shared", "-U_FORTIFY_SOURCE", "-Wno-unknown-pragmas")
EPS, MOMENTUM = 1e-5, 0.3
ORDERS = (0, 1, 5)  # of threads and blocks: as numbered, from the last, mixed up
DTYPES = {torch.float32: 0, torch.float16: 2, torch.bfloat16: 3}  # of maps, as problem.h's DType
ALL_DTYPES = DTYPES | {torch.float64: 1}  # of parameters, masks and running statistics
ACTIVATIONS = {"leaky": 0, "relu": 1, "silu": 2}
NONE = -1  # groups, where nothing is normalized
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
Chain = c_struct("Chain", (ctypes.c_int64, "pairs"), (ctypes.c_void_p, "x gamma beta y"))
ChainBackward = c_struct(
    "ChainBackward", (ctypes.c_int64, "pairs"), (ctypes.c_void_p, "dy x gamma beta dgamma dbeta dx")
)
STRUCTS = Problem, Forward, Backward, Chain, ChainBackward


def load() -> ctypes.CDLL:
    """The kernels, compiled for this machine: once for all processes, and again where a source has changed."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("the emulation is C++ and there is no g++")

    def work(folder: Path) -> bytes:
        library = folder / "driver.so"
        subprocess.run([compiler, *FLAGS, str(HERE / "driver.cpp"), "-o", str(library)], check=True)
        return library.read_bytes()

    own = [path.read_bytes() for path in sorted(HERE.glob("*.[ch]*"))]
    version = subprocess.check_output([compiler, "--version"])
    key = digest((FLAGS, version, own, build._read_sources("cuda")))
    loaded = ctypes.CDLL(str(_cache.make(f"cuda_emulation-{key}", work)))
    for function in (loaded.size_of, loaded.forward_bytes, loaded.backward_bytes, loaded.chain_backward_bytes):
        function.restype = ctypes.c_int64
    for function in (loaded.forward, loaded.backward, loaded.chain, loaded.chain_backward):
        function.restype = ctypes.c_char_p
    assert [loaded.size_of(i) for i in range(len(STRUCTS))] == [ctypes.sizeof(s) for s in STRUCTS]
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
    activation: str = "leaky"
    slope: float = 0.2
    absolute: bool = False
    masked: bool = True
    own: torch.dtype = torch.float32  # dtype of gamma, mask and running statistics; beta has it or float32
    maps: bool = False  # gamma and beta are maps, of the dtype of x, and there is no mask
    mean: float = 0.5  # of x, whose deviation is 1
    unaligned: bool = False  # buffers start 4 bytes beyond a multiple of 16

    def problem(self) -> Any:
        shape = (self.n, self.c, self.h, self.w, self.up, self.groups)
        dtypes = (DTYPES[self.dtype], *(ALL_DTYPES[t] for t in (self.gamma_dtype, self.beta_dtype, self.own)))
        activation = ACTIVATIONS[self.activation]
        return Problem(*shape, self.channels_last, self.maps, self.absolute, activation, *dtypes, EPS, self.slope)

    @property
    def gamma_dtype(self) -> torch.dtype:
        return self.dtype if self.maps else self.own

    @property
    def beta_dtype(self) -> torch.dtype:
        """Another one than gamma's in some cases."""
        return self.dtype if self.maps else self.own if self.c % 2 else torch.float32

    @property
    def parameters(self) -> tuple[int, ...]:
        return self.map_shape(self.up) if self.maps else (self.n, self.c)

    @property
    def repeats(self) -> int:
        """Of each value in the count of the running variance: those of y, or those of x."""
        return self.up**2 if self.c % 2 else 1

    def map_shape(self, up: int) -> tuple[int, ...]:
        return (self.n, self.c, up * self.h, up * self.w)

    @property
    def statistics(self) -> int:
        return 0 if self.groups == NONE else self.n * self.groups if self.groups else self.c

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
    running: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        case, generator = self.case, torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        self.x = (normal(*case.map_shape(1)) + case.mean).to(case.dtype)
        self.dy = normal(*case.map_shape(case.up)).to(case.dtype)
        self.gamma = normal(*case.parameters).to(case.gamma_dtype)
        self.beta = normal(*case.parameters).to(case.beta_dtype)
        high = (case.n, 1, case.up * case.h, case.up * case.w)
        self.mask = torch.rand(high, generator=generator).to(case.own) if case.masked and not case.maps else None
        self.running = [t.to(case.own) for t in (normal(case.c), 1 + torch.rand(case.c, generator=generator))]


def expected(data: Data, given: tuple[np.ndarray, np.ndarray] | None, constant: bool) -> dict[str, np.ndarray]:
    """Everything in float64, of the upsampled map, which the kernels never see."""
    case, x = data.case, data.x.double().numpy()
    tensors = data.x, data.gamma, data.beta, data.mask
    options: dict[str, Any] = {"absolute": case.absolute, "upsample": case.up, "eps": EPS, "groups": case.groups}
    results: dict[str, np.ndarray] = {}
    if case.groups == NONE:
        xhat, rstd = x, np.ones((1, 1, 1, 1))
    else:
        count = case.gather(np.ones_like(x)).max(initial=1)
        mean = case.gather(x) / count
        mean, var = given or (mean, case.gather((x - case.spread(mean)) ** 2) / count)
        rstd = 1 / np.sqrt(case.spread(var) + EPS)
        xhat = (x - case.spread(mean)) * rstd
        results |= {"mean": mean, "var": var}
        if given is None and case.groups == 0 and x.size:
            count *= case.repeats
            pairs = zip((mean, var * count / max(count - 1, 1)), data.running, strict=True)
            moved = (MOMENTUM * new + (1 - MOMENTUM) * old.double().numpy() for new, old in pairs)
            results |= dict(zip(("running_mean", "running_var"), moved, strict=True))
            count //= case.repeats
        options["given"] = case.spread(mean)[..., 0, 0], case.spread(var)[..., 0, 0]
    # Where z is all but 0 rounding decides on its sign: no gradient comes from there.
    z = formula.norm(data.dy, *tensors, **options)[0]
    data.dy = torch.where(torch.from_numpy(np.abs(z) < 1e-4), 0, data.dy)
    options |= {"silu": case.activation == "silu", "slope": case.slope * (case.activation == "leaky")}
    names = "y", "dx", "dgamma", "dbeta", "dmask"
    results |= dict(zip(names, formula.norm(data.dy, *tensors, **options), strict=True))
    if case.groups != NONE:  # dx is that of constant statistics
        dxhat = results["dx"] / rstd
        results["sums"] = sums = np.stack([case.gather(dxhat), case.gather(dxhat * xhat)])
        if not constant:
            results["dx"] -= rstd * (case.spread(sums[0]) + xhat * case.spread(sums[1])) / count
    return results


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

    def call(function: Callable[..., bytes | None], bytes_of: Callable[..., int], arguments: Any) -> None:
        pointers = ctypes.byref(problem), ctypes.byref(arguments)
        name = f"scratch {len(buffers.memory)}"  # the one before stays, with its guards
        scratch = ctypes.c_void_p(buffers.new(name, bytes_of(*pointers)))  # NaN
        error = function(*pointers, scratch, order)
        assert error is None, error

    def forward(arguments: Any) -> None:
        call(kernels.forward, kernels.forward_bytes, arguments)

    def backward(*arguments: Any) -> None:
        call(kernels.backward, kernels.backward_bytes, Backward(*arguments))

    x, gamma, beta = (buffers.put(name, getattr(data, name)) for name in ("x", "gamma", "beta"))
    mask = None if data.mask is None else buffers.put("mask", data.mask)
    running = Running()
    if given is None:
        mean, var = buffers.new("mean", 8 * k), buffers.new("var", 8 * k)
        if case.groups == 0:
            moved = (buffers.put(f"running_{n}", t) for n, t in zip(("mean", "var"), data.running, strict=True))
            running = Running(*moved, ALL_DTYPES[case.own], MOMENTUM, case.repeats)
    else:
        mean, var = (
            buffers.put(name, torch.from_numpy(v)) for name, v in zip(("mean", "var"), given, strict=True)
        )
    y = buffers.put("y", torch.full(case.map_shape(case.up), torch.nan, dtype=case.dtype))
    known = given is not None or case.groups == NONE
    forward(Forward(x, gamma, beta, mask, known, mean, var, running, y))

    dy = buffers.put("dy", data.dy)
    sums = buffers.new("sums", 16 * k)
    dgamma, dbeta = (buffers.put(f"d{n}", torch.full_like(getattr(data, n), torch.nan)) for n in ("gamma", "beta"))
    dmask = None
    if need_dmask and data.mask is not None:
        dmask = buffers.new("dmask", data.mask.nbytes)
    dx = buffers.put("dx", torch.full(case.map_shape(1), torch.nan, dtype=case.dtype))
    inputs, outputs = (dy, x, gamma, beta, mask, mean, var), (dgamma, dbeta, dmask, dx)
    if fused:
        backward(*inputs, True, True, constant, sums, *outputs)
    else:
        backward(*inputs, True, False, constant, sums, *outputs[:3], None)
        ratios = buffers.get("sums", torch.float64, (2, k)) / max(case.n * case.c * case.h * case.w / max(k, 1), 1)
        given_k = buffers.put("k", torch.from_numpy(ratios))
        backward(*inputs, False, True, constant, given_k, None, None, None, dx)
    buffers.check_guards()
    outputs_of = {
        "y": (case.dtype, case.map_shape(case.up)),
        "dgamma": (case.gamma_dtype, case.parameters),
        "dbeta": (case.beta_dtype, case.parameters),
        "dx": (case.dtype, case.map_shape(1)),
    }
    if case.groups != NONE:
        outputs_of |= {
            "mean": (torch.float64, (k,)),
            "var": (torch.float64, (k,)),
            "sums": (torch.float64, (2, k)),
        }
    if running.mean and data.x.numel():
        outputs_of |= dict.fromkeys(("running_mean", "running_var"), (case.own, (case.c,)))
    if dmask is not None:
        outputs_of["dmask"] = case.own, (case.n, 1, case.up * case.h, case.up * case.w)
    return {name: buffers.get(name, *of) for name, of in outputs_of.items()}


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
    assert ("dmask" in first) == (need_dmask and data.mask is not None)
    for name, got in first.items():
        dtype = case.dtype if name in ("y", "dx") or (case.maps and name in ("dgamma", "dbeta")) else case.own
        tight = TOLERANCE.get(dtype, TOLERANCE[torch.float32])
        largest = np.abs(truth[name]).max(initial=1e-3)
        error = np.abs(got - truth[name]).max(initial=0) / largest
        assert error <= (tolerance or tight), f"{name} is off by {error:.2g} of {largest:.3g} for {case}"
        for other in others:
            np.testing.assert_array_equal(other[name], got, f"{name} depends on the order of threads or blocks")


def check_chain(kernels: ctypes.CDLL, case: Case, pairs: int, *, orders: tuple[int, ...] = ORDERS[:2]) -> None:
    """Chains of act(gamma x + beta), with all gradients and with dx alone."""
    generator, shape = torch.Generator().manual_seed(2), (pairs, case.n, case.c)
    gammas = torch.randn(shape, generator=generator).to(case.own)
    betas = torch.randn(shape, generator=generator).to(case.beta_dtype)
    x, dy = Data(case).x, Data(case).dy
    act: dict[str, Any] = {"slope": case.slope * (case.activation == "leaky"), "silu": case.activation == "silu"}
    y, dx, *rest = formula.chain(dy, x, gammas, betas, **act, upsample=case.up)
    dgammas, dbetas = np.stack(rest[:pairs]), np.stack(rest[pairs:])
    truth = {"y": y, "dx": dx, "dgamma": dgammas, "dbeta": dbetas}
    outputs = {
        "y": (case.dtype, case.map_shape(case.up)),
        "dx": (case.dtype, case.map_shape(1)),
        "dgamma": (case.own, shape),
        "dbeta": (case.beta_dtype, shape),
    }
    first: dict[str, np.ndarray] = {}
    for order, alone in itertools.product(orders, (False, True)):
        buffers, problem = Buffers(kernels, case), ctypes.byref(case.problem())
        put = {"x": x, "dy": dy, "gamma": gammas, "beta": betas}
        put |= {name: torch.full(size, torch.nan, dtype=type_) for name, (type_, size) in outputs.items()}
        at = {name: buffers.put(name, tensor) for name, tensor in put.items()}
        error = kernels.chain(
            problem, ctypes.byref(Chain(pairs, at["x"], at["gamma"], at["beta"], at["y"])), order
        )
        assert error is None, error
        sums = (None, None) if alone else (at["dgamma"], at["dbeta"])
        backward = ctypes.byref(ChainBackward(pairs, at["dy"], at["x"], at["gamma"], at["beta"], *sums, at["dx"]))
        scratch = ctypes.c_void_p(buffers.new("scratch", kernels.chain_backward_bytes(problem, backward)))
        error = kernels.chain_backward(problem, backward, scratch, order)
        assert error is None, error
        buffers.check_guards()
        for name, (type_, size) in outputs.items():
            if alone and name in ("dgamma", "dbeta"):
                continue
            got = buffers.get(name, type_, size)
            np.testing.assert_array_equal(first.setdefault(name, got), got, f"{name} depends on the order")
            largest = np.abs(truth[name]).max(initial=1e-3)
            error_of = np.abs(got - truth[name]).max(initial=0) / largest
            assert error_of <= TOLERANCE[type_], f"{name} is off by {error_of:.2g} of {largest:.3g} for {case}"
