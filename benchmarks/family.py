"""The generators of the family beside plain PyTorch, forward and backward.

Both of a pair hold the same weights, by the published keys, and this script refuses to compare two that draw
different pictures. Peers take turns in one process, the allocator keeping large blocks for both; with `--compile`
the plain one also runs under torch.compile. DF-GAN and RAT-GAN draw 256 px, SPADE and BigGAN 128 px.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import plain_family as plain
import torch
import torch.nn.functional as F
from common import environment, peak_bytes, time_in_turn, write
from torch import Tensor, nn

from t2ilayers.interop import official
from t2ilayers.models import BigGANGenerator, DFGenerator, RATGenerator, SPADEGenerator
from t2ilayers.training import keep_large_blocks

LABELS, CLASSES = 36, 1000  # Cityscapes' with edges; ImageNet's


def text(size: int, width: int, batch: int, device: str) -> dict[str, tuple[nn.Module, nn.Module, Any, Any]]:
    z, cond = torch.randn(batch, 100, device=device), torch.randn(batch, 256, device=device)
    return {
        "DF-GAN": (DFGenerator(size, width), plain.DFGAN(size, width), z, cond),
        "RAT-GAN": (RATGenerator(size, width), plain.RATGAN(size, width), z, cond),
    }


def others(size: int, width: int, batch: int, device: str) -> dict[str, tuple[nn.Module, nn.Module, Any, Any]]:
    labels = torch.randint(LABELS, (batch, size // 8, size // 8), device=device)
    cond = F.one_hot(labels, LABELS).movedim(3, 1).float()
    z, classes = torch.randn(batch, 120, device=device), torch.randint(CLASSES, (batch,), device=device)
    spade = SPADEGenerator(size, LABELS, width), plain.SPADEGAN(size, width, LABELS), None, cond
    if size != 128:
        return {"SPADE": spade}
    return {"SPADE": spade, "BigGAN": (BigGANGenerator(size, width), plain.BigGAN(width, CLASSES), z, classes)}


def away_from_the_start(generator: nn.Module) -> None:
    """Gates and last layers that begin at 0 get values: at 0 a block is only its shortcut."""
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if not parameter.any():
                parameter.fill_(0.3) if name.endswith("gamma") else parameter.normal_(std=0.02)


def images(generator: nn.Module, z: Tensor | None, cond: Tensor) -> Tensor:
    result = generator(z, cond)
    return result if isinstance(result, Tensor) else result.images


def both(generator: nn.Module, z: Tensor | None, cond: Tensor, weight: Tensor) -> Callable[[], object]:
    def call() -> object:
        generator.zero_grad()
        return (images(generator, z, cond) * weight).mean().backward()

    return call


def measure(
    name: str, peers: tuple[nn.Module, nn.Module, Any, Any], size: int, arguments: argparse.Namespace
) -> dict[str, Any]:
    ours, theirs, z, cond = peers
    device = arguments.device
    away_from_the_start(ours)
    ours, theirs = ours.to(device).train(), theirs.to(device).train()
    ours.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as the scripts do
    theirs.load_state_dict(official.export(ours))
    with torch.no_grad():
        difference = (images(ours, z, cond) - images(theirs, z, cond)).abs().max().item()
    if not difference < 1e-3:
        raise SystemExit(f"{name}: the peers draw different pictures: {difference}")
    weight = torch.randn(arguments.batch, 3, size, size, device=device)
    generators = {"t2ilayers": ours, "plain": theirs}
    if arguments.compile:
        generators["plain, compiled"] = torch.compile(theirs)  # type: ignore[assignment]
    calls = {peer: both(generator, z, cond, weight) for peer, generator in generators.items()}
    peaks = {peer: peak_bytes(call, device) for peer, call in calls.items()}
    times = time_in_turn(calls, device, seconds=arguments.seconds, rounds=arguments.rounds)
    measured = {peer: times[peer] | {"peak_mib": peaks[peer] / 2**20} for peer in times}
    faster = times["plain"]["median_ms"] / times["t2ilayers"]["median_ms"]
    memory = peaks["t2ilayers"] / peaks["plain"]
    said = "  ".join(f"{p} {measured[p]['median_ms']:.0f} ms {measured[p]['peak_mib']:.0f} MiB" for p in times)
    print(f"{name}, {size} px: {said}  ({faster:.2f}x, {memory:.2f} of the memory)", flush=True)
    return {"image_size": size, "batch": arguments.batch, "width": arguments.width, name: measured}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--size", type=int, default=256, help="of DF-GAN's and RAT-GAN's pictures (default 256)")
    parser.add_argument(
        "--other-size", type=int, default=128, help="of SPADE's; BigGAN draws 128 px (default 128)"
    )
    parser.add_argument("--batch", type=int, default=4, help="(default 4)")
    parser.add_argument("--width", type=int, default=32, help="ngf (default 32)")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each peer (default 5)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each peer (default 7)")
    parser.add_argument("--compile", action="store_true", help="add the plain generators under torch.compile")
    parser.add_argument("--out", help="name of the result, by default family_cpu or family_cuda")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    if arguments.device == "cpu":
        keep_large_blocks()
    torch.manual_seed(0)
    record: dict[str, Any] = {"environment": environment(arguments.device), "rows": []}
    for make, size in ((text, arguments.size), (others, arguments.other_size)):
        for model, peers in make(size, arguments.width, arguments.batch, arguments.device).items():
            record["rows"].append(measure(model, peers, size, arguments))
    print(write(arguments.out or f"family_{arguments.device}", record))


if __name__ == "__main__":
    main()
