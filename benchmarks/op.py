"""The op: native kernels beside eager PyTorch, torch.compile and the least traffic there can be.

Every form of ``forms.py`` has its rows. The peers compute the same function of the same tensors in one process, in
turn, with the allocator keeping large blocks for all. "Floor" is the time that copying takes for the bytes that no
implementation can avoid: feature maps read and written once a pass. The copy is measured beside the peers, at the
size of the map; what fits in a cache is copied from that cache. An implementation that keeps data in cache between
passes may beat the floor.

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
from common import environment, graphed, in_rotation, peak_bytes, time_in_turn, write
from forms import FORMS
from torch import Tensor

from t2ilayers.ops import build
from t2ilayers.training import keep_large_blocks

# (C, H) of y at the seven stages of SSA-GAN at 256 px and ngf 64; upsample halves the H of x.
STAGES = [(512, 4), (512, 8), (512, 16), (512, 32), (256, 64), (128, 128), (64, 256)]
UPSAMPLED = [(512, 8), (512, 16), (512, 32), (512, 64), (256, 128), (128, 256)]
HEADLINE = [(64, 128, 1), (512, 16, 1), (64, 128, 2)]
CACHE = 300e6  # bytes of maps that no GPU's cache holds
# Of forms that other families have: form, N, C, H of y, upsample.
FURTHER = [
    ("affine pair", 8, 64, 128, 1), ("affine pair", 8, 64, 128, 2), ("SPADE", 8, 64, 128, 1),
    ("absolute", 8, 64, 128, 1), ("masked", 4, 64, 16, 1),
]  # fmt: skip


def measure(
    name: str,
    n: int,
    c: int,
    side: int,
    upsample: int,
    dtype: torch.dtype,
    layout: str,
    device: str,
    seconds: float,
) -> list[dict[str, Any]]:
    torch._dynamo.reset()
    torch.manual_seed(0)
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    map_bytes = n * c * side**2 * dtype.itemsize
    form = FORMS[name]

    def map_of(h: int) -> Tensor:
        return torch.randn(n, c, h, h, device=device).to(dtype).contiguous(memory_format=memory_format)

    def draw() -> tuple[Tensor, ...]:
        """dy, x and parameters. As layers under autocast hand them over: all in the dtype of the map."""
        drawn = (t.to(device, dtype) for t in form.parameters(n, c, side))
        parameters = (t.contiguous(memory_format=memory_format) if t.dim() == 4 else t for t in drawn)
        maps = map_of(side), map_of(side // upsample)
        return maps[0], *(t.requires_grad_() for t in (maps[1], *parameters))

    sets = [draw() for _ in range(max(2, min(16, round(CACHE / map_bytes))) if device == "cuda" else 1)]
    functions: dict[str, Callable[..., Tensor]] = {
        "native": form.native,
        "eager": form.eager,
        "compile": torch.compile(form.eager, dynamic=False),
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
    for passes, what, bind in zip(form.passes[upsample], ("forward", "both"), (forward, both), strict=True):
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
        floor = passes / 2 * copied  # a copy reads and writes: two passes
        for peer in times:
            times[peer]["peak_maps"] = memory[peer] / map_bytes
            times[peer]["of_floor"] = floor / times[peer][on_device]
        row = {
            "form": name, "shape": [n, c, side, side], "upsample": upsample,
            "dtype": str(dtype).removeprefix("torch."), "layout": layout, "pass": what, "floor_ms": floor,
            "peers": times, "copy_gb_per_s": 2 * map_bytes / copied / 1e6,
        }  # fmt: skip
        rows.append(row)
        ratios = "  ".join(
            f"{peer} {times[peer]['median_ms'] / times['native']['median_ms']:5.2f}x"
            for peer in ("eager", "compile")
        )
        print(
            f"{name:>11} {row['shape']!s:>18} up {upsample} {row['dtype']:>8} {layout:>13} {what:>7}: native "
            f"{times['native']['median_ms']:8.3f} ms  {ratios}  floor {times['native']['of_floor']:4.0%}",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--seconds", type=float, default=0.6, help="for each peer and row (default 0.6)")
    parser.add_argument("--headline", action="store_true", help="only the three shapes the README quotes")
    parser.add_argument(
        "--only", default="", metavar="REGEX", help="rows such as 'masked 64x128x1 float32 contiguous'"
    )
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
    plan = [("masked", n, c, side, up, torch.float32, contiguous) for c, side, up in HEADLINE]
    if not arguments.headline:
        stages = [(c, side, 1) for c, side in STAGES] + [(c, side, 2) for c, side in UPSAMPLED]
        plan += [("masked", n, *stage, torch.float32, contiguous) for stage in stages if stage not in HEADLINE]
        plan += [(*row, torch.float32, contiguous) for row in FURTHER]
        plan += [("masked", n, *stage, torch.float32, last) for stage in HEADLINE]
        plan += [("masked", n, *stage, torch.bfloat16, contiguous) for stage in HEADLINE]
        plan += [(*row, torch.float32, last) for row in FURTHER]
        if device == "cuda":
            plan += [("masked", n, *stage, torch.bfloat16, last) for stage in stages]
            plan += [("masked", n, *stage, torch.float16, contiguous) for stage in HEADLINE]
    record: dict[str, Any] = {"environment": environment(device), "rows": []}
    for name, batch, c, side, up, dtype, layout in plan:
        if not re.search(arguments.only, f"{name} {c}x{side}x{up} {str(dtype).removeprefix('torch.')} {layout}"):
            continue
        record["rows"] += measure(name, batch, c, side, up, dtype, layout, device, arguments.seconds)
        write(arguments.out or f"op_{device}", record)


if __name__ == "__main__":
    main()
