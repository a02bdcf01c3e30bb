"""masked_affine_norm: native kernels beside eager PyTorch, torch.compile and the least traffic there can be.

The peers compute the same function of the same tensors in one process, in turn, with the allocator keeping large
blocks for all. "Floor" is the time that copying takes for the bytes that no implementation can avoid: feature maps
read and written once a pass, 3 passes forward and 5 backward, with upsampling 1.5 and 2.75 of the larger map. The
copy is measured beside the peers, at the size of the map; what fits in a cache is copied from that cache. An
implementation that keeps data in cache between passes may beat the floor.

On CUDA each call takes other inputs than the one before, so many in turn that the cache holds none of them, and
each peer is also timed as the replay of a graph of these calls: the device alone. "Floor" is then of the replays.
"""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from common import environment, graphed, in_rotation, peak_bytes, time_in_turn, write
from torch import Tensor

from t2ilayers.ops import build, masked_affine_norm
from t2ilayers.training import keep_large_blocks

# (C, H) of y at the seven stages of SSA-GAN at 256 px and ngf 64; upsample halves the H of x.
STAGES = [(512, 4), (512, 8), (512, 16), (512, 32), (256, 64), (128, 128), (64, 256)]
UPSAMPLED = [(512, 8), (512, 16), (512, 32), (512, 64), (256, 128), (128, 256)]
HEADLINE = [(64, 128, 1), (512, 16, 1), (64, 128, 2)]
CACHE = 300e6  # bytes of maps that no GPU's cache holds
PASSES = {(1, "forward"): 3.0, (1, "both"): 8.0, (2, "forward"): 1.5, (2, "both"): 4.25}


def formula(x: Tensor, gamma: Tensor, beta: Tensor, mask: Tensor, upsample: int) -> Tensor:
    """As published code writes it."""
    if upsample == 2:
        x = F.interpolate(x, scale_factor=2, mode="nearest")
    xhat = F.batch_norm(x, None, None, training=True)
    y = (gamma[:, :, None, None] * mask + 1) * xhat + beta[:, :, None, None] * mask
    return F.relu(y.to(x.dtype))


def fused(x: Tensor, gamma: Tensor, beta: Tensor, mask: Tensor, upsample: int) -> Tensor:
    return masked_affine_norm(x, gamma, beta, mask, upsample=upsample, activation="relu", impl="native")


def measure(
    n: int, c: int, side: int, upsample: int, dtype: torch.dtype, layout: str, device: str, seconds: float
) -> list[dict[str, Any]]:
    torch._dynamo.reset()
    torch.manual_seed(0)
    form = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    map_bytes = n * c * side**2 * dtype.itemsize

    def map_of(h: int) -> Tensor:
        return torch.randn(n, c, h, h, device=device).to(dtype).contiguous(memory_format=form)

    def draw() -> tuple[Tensor, ...]:
        """dy, x, gamma, beta and mask. As layers under autocast hand them over: all in the dtype of the map."""
        dy, x = map_of(side), map_of(side // upsample).requires_grad_()
        gamma, beta = (torch.randn(n, c, device=device, dtype=dtype, requires_grad=True) for _ in range(2))
        return dy, x, gamma, beta, torch.rand(n, 1, side, side, device=device, dtype=dtype, requires_grad=True)

    sets = [draw() for _ in range(max(2, min(16, round(CACHE / map_bytes))) if device == "cuda" else 1)]
    functions: dict[str, Callable[..., Tensor]] = {
        "native": fused,
        "eager": formula,
        "compile": torch.compile(formula, dynamic=False),
    }

    def forward(function: Callable[..., Tensor], _: Tensor, *inputs: Tensor) -> Callable[[], object]:
        frozen = [t.detach() for t in inputs]

        def call() -> object:
            with torch.no_grad():
                return function(*frozen, upsample)

        return call

    def both(function: Callable[..., Tensor], dy: Tensor, *inputs: Tensor) -> Callable[[], object]:
        return lambda: torch.autograd.grad(function(*inputs, upsample), inputs, dy)

    spare = torch.empty_like(sets[0][0])
    copies: list[Callable[[], object]] = [partial(spare.copy_, dy) for dy, *_ in sets]
    rows = []
    for name, bind in (("forward", forward), ("both", both)):
        calls = {peer: [bind(function, *tensors) for tensors in sets] for peer, function in functions.items()}
        memory = {peer: peak_bytes(own[0], device) for peer, own in calls.items()}
        calls["copy"] = copies
        times = time_in_turn({peer: in_rotation(own) for peer, own in calls.items()}, device, seconds=seconds)
        if device == "cuda":
            replays = {peer: graphed(own) for peer, own in calls.items()}
            for peer, time in time_in_turn(replays, device, seconds=seconds).items():
                times[peer]["device_ms"] = time["median_ms"] / len(sets)
        on_device = "device_ms" if device == "cuda" else "median_ms"
        copied = times.pop("copy")[on_device]
        floor = PASSES[upsample, name] / 2 * copied  # a copy reads and writes: two passes
        for peer in times:
            times[peer]["peak_maps"] = memory[peer] / map_bytes
            times[peer]["of_floor"] = floor / times[peer][on_device]
        row = {
            "shape": [n, c, side, side], "upsample": upsample, "dtype": str(dtype).removeprefix("torch."),
            "layout": layout, "pass": name, "floor_ms": floor, "peers": times,
            "copy_gb_per_s": 2 * map_bytes / copied / 1e6,
        }  # fmt: skip
        rows.append(row)
        ratios = "  ".join(
            f"{peer} {times[peer]['median_ms'] / times['native']['median_ms']:5.2f}x"
            for peer in ("eager", "compile")
        )
        print(
            f"{row['shape']!s:>20} up {upsample} {row['dtype']:>8} {layout:>13} {name:>7}: native "
            f"{times['native']['median_ms']:8.3f} ms  {ratios}  floor {times['native']['of_floor']:4.0%}",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--seconds", type=float, default=0.6, help="for each peer and row (default 0.6)")
    parser.add_argument("--headline", action="store_true", help="only the three shapes the README quotes")
    parser.add_argument("--only", default="", metavar="REGEX", help="rows such as '64x128x1 float32 contiguous'")
    parser.add_argument("--out", help="name of the result, by default op_cpu or op_cuda")
    arguments = parser.parse_args()
    device = arguments.device
    if reason := build.why_not(device):
        parser.error(f"there is nothing to compare: {reason}")
    warnings.simplefilter("ignore")  # torch.compile's
    torch.backends.cuda.matmul.allow_tf32 = True
    if device == "cpu":
        keep_large_blocks()
    n = 8 if device == "cpu" else 24
    contiguous, last = "contiguous", "channels_last"
    plan = [(c, side, up, torch.float32, contiguous) for c, side, up in HEADLINE]
    if not arguments.headline:
        plan += [(c, side, 1, torch.float32, contiguous) for c, side in STAGES if (c, side, 1) not in HEADLINE]
        plan += [(c, side, 2, torch.float32, contiguous) for c, side in UPSAMPLED]
        plan += [(c, side, up, torch.float32, last) for c, side, up in HEADLINE]
        plan += [(c, side, up, torch.bfloat16, contiguous) for c, side, up in HEADLINE]
        if device == "cuda":
            stages = [(c, side, 1) for c, side in STAGES] + [(c, side, 2) for c, side in UPSAMPLED]
            plan += [(*stage, torch.bfloat16, last) for stage in stages]
            plan += [(*stage, torch.float16, contiguous) for stage in HEADLINE]
    record: dict[str, Any] = {"environment": environment(device), "rows": []}
    for c, side, up, dtype, layout in plan:
        if not re.search(arguments.only, f"{c}x{side}x{up} {str(dtype).removeprefix('torch.')} {layout}"):
            continue
        record["rows"] += measure(n, c, side, up, dtype, layout, device, arguments.seconds)
        write(arguments.out or f"op_{device}", record)


if __name__ == "__main__":
    main()
