"""The whole SSA-GAN beside plain PyTorch: sampling, the generator's forward and backward, the training iteration.

Both models hold the same weights, and this script refuses to compare two that draw different pictures. Peers take
turns in one process, the allocator keeping large blocks for both and the penalty a step of its own in both.
`--as-users-run` times each iteration in a process of its own with its own defaults: the plain one with the
allocator as one finds it and the penalty as published, ours with large blocks kept, the penalty in the
discriminator's loss, and in the precision that train_ssagan.py takes here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from itertools import product
from typing import Any, Literal

import plain
import torch
from common import environment, peak_bytes, time_in_turn, write
from torch import Tensor

from t2ilayers import SSAGAN, SSAGANConfig
from t2ilayers.interop import official
from t2ilayers.training import SSAGANStep, StepConfig, fastest_precision, keep_large_blocks

VOCABULARY, WORDS = 5450, 18  # CUB's
KINDS = {  # operator names by what they do; the rest is "other"
    "convolution": ("conv", "mkldnn"),
    "norm": ("masked_affine_norm", "batch_norm", "native_batch_norm"),
    "optimizer": ("_fused_adam", "addcdiv", "lerp"),
    "linear": ("addmm", "aten::mm", "bmm", "lstm"),
}


class Peers:
    """The library's model and the plain one with the same weights, and a batch for both."""

    def __init__(self, size: int, batch: int, width: int, device: str, precision: str, image_encoder: str) -> None:
        torch.manual_seed(0)
        config = SSAGANConfig(
            size,
            ngf=width,
            ndf=width,
            vocab_size=VOCABULARY,
            image_encoder=image_encoder,  # type: ignore[arg-type]
        )
        self.precision, self.device, self.n = precision, device, batch
        self.ours = SSAGAN(config).to(device)
        with torch.no_grad():
            for name, parameter in self.ours.named_parameters():
                if name.endswith(".gamma") and parameter.numel() == 1:  # at 0 a block is only its shortcut
                    parameter.fill_(0.3)
                elif ".2.weight" in name and ("gamma" in name or "beta" in name):
                    parameter.normal_(std=0.02)
        self.ours.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # as the scripts do
        self.generator = plain.Generator(size, width).to(device)
        self.discriminator = plain.Discriminator(size, width).to(device)
        self.generator.load_state_dict(official.export(self.ours.generator))
        self.discriminator.load_state_dict(official.export(self.ours.discriminator))
        self.z = torch.randn(batch, 100, device=device)
        self.cond = torch.randn(batch, 256, device=device)
        self.weight = torch.randn(batch, 3, size, size, device=device)
        self.batch: dict[str, Any] = {
            "image": torch.rand(batch, 3, size, size, device=device) * 2 - 1,
            "tokens": torch.randint(1, VOCABULARY, (batch, WORDS), device=device),
            "lengths": torch.randint(5, WORDS + 1, (batch,)),
            "class_ids": torch.arange(batch, device=device),
        }

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16")

    def images(self, generator: torch.nn.Module) -> Tensor:
        with self.autocast():
            result = generator(self.z, self.cond)
        return result if isinstance(result, Tensor) else result.images

    @torch.no_grad()
    def check_equal(self) -> None:
        # TensorFloat-32, which this script allows, has 10 bits: seen 2e-3 at 256 px.
        tolerance = {"cpu": 1e-3, "cuda": 1e-2}[self.device] if self.precision == "fp32" else 0.1
        for mode in (True, False):
            a, b = (self.images(g.train(mode)).float() for g in (self.ours.generator, self.generator))
            if (difference := (a - b).abs().max().item()) > tolerance:
                raise SystemExit(f"the peers draw different pictures: {difference}, {mode=}")

    def sampling(self, generator: torch.nn.Module) -> Callable[[], object]:
        def call() -> object:
            generator.eval()
            with torch.inference_mode():
                return self.images(generator)

        return call

    def both(self, generator: torch.nn.Module) -> Callable[[], object]:
        def call() -> object:
            generator.train()
            generator.zero_grad()
            return (self.images(generator) * self.weight).mean().backward()

        return call

    def iterations(self, penalty: Literal["joint", "two-step"]) -> dict[str, Callable[[], object]]:
        text, image = self.ours.text_encoder, self.ours.image_encoder
        assert image is not None
        ours = SSAGANStep(self.ours, StepConfig(penalty=penalty, precision=self.precision))  # type: ignore[arg-type]
        theirs = plain.Iteration(self.generator.train(), self.discriminator, text, image, self.precision)
        return {"t2ilayers": lambda: ours(self.batch, 0), "plain": lambda: theirs(self.batch)}  # type: ignore[arg-type]


def shares(call: Callable[[], object], device: str) -> dict[str, float]:
    """Milliseconds of one call by kind of operator."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        call()
    total = dict.fromkeys((*KINDS, "other"), 0.0)
    for event in profile.key_averages():
        if event.device_type != torch.autograd.DeviceType.CPU:
            continue  # a kernel, whose time is also that of the operator that launched it
        spent = event.self_device_time_total if device == "cuda" else event.self_cpu_time_total
        kind = next((kind for kind, names in KINDS.items() if any(n in event.key for n in names)), "other")
        total[kind] += spent / 1e3
    return total


def measure(
    size: int, batch: int, width: int, arguments: argparse.Namespace, *, parts: set[str], compiled: bool = False
) -> dict[str, Any]:
    device, precision = arguments.device, arguments.precision
    peers = Peers(size, batch, width, device, precision, "inception" if size > 128 else "conv")
    peers.check_equal()
    row: dict[str, Any] = {"image_size": size, "batch": batch, "width": width, "precision": precision}
    generators = {"t2ilayers": peers.ours.generator, "plain": peers.generator}
    if compiled:
        generators["plain, compiled"] = torch.compile(peers.generator)  # type: ignore[assignment]
    for part, bind in (("sampling", peers.sampling), ("generator", peers.both)):
        if part in parts:
            calls = {name: bind(g) for name, g in generators.items()}
            peaks = {name: peak_bytes(call, device) for name, call in calls.items()}
            times = time_in_turn(calls, device, seconds=arguments.seconds, rounds=arguments.rounds)
            row[part] = {name: times[name] | {"peak_mib": peaks[name] / 2**20} for name in times}
            if part == "sampling":
                for peer in row[part].values():
                    peer["images_per_s"] = 1e3 * batch / peer["median_ms"]
            if arguments.profile:
                row[part]["shares_ms"] = {name: shares(calls[name], device) for name in ("t2ilayers", "plain")}
    if "iteration" in parts:
        calls = peers.iterations("joint" if arguments.only else "two-step")
        if arguments.only:
            calls = {arguments.only: calls[arguments.only]}
        row["iteration"] = time_in_turn(calls, device, seconds=arguments.seconds, rounds=arguments.rounds)
        if arguments.profile:
            row["iteration"]["shares_ms"] = {name: shares(call, device) for name, call in calls.items()}
    for part in parts & row.keys():
        peers_of = {name: value for name, value in row[part].items() if name != "shares_ms"}
        text = "  ".join(
            f"{name} {v['median_ms']:.0f} ms" + (f" {v['peak_mib']:.0f} MiB" if "peak_mib" in v else "")
            for name, v in peers_of.items()
        )
        print(f"{size} px, batch {batch}, width {width}, {precision}, {part}: {text}", flush=True)
    return row


def as_users_run(arguments: argparse.Namespace) -> dict[str, Any]:
    """The iteration of each in a process of its own, with its own defaults; ours in float32 as well."""
    found: dict[str, Any] = {}
    for name, peer, precision in (
        ("t2ilayers", "t2ilayers", fastest_precision(torch.device(arguments.device))),
        ("plain", "plain", "fp32"),
        ("t2ilayers --precision fp32", "t2ilayers", "fp32"),
    ):
        command = [sys.executable, __file__, "--only", peer, "--rounds", str(arguments.rounds), "--size",
                   str(arguments.size), "--batch", str(arguments.batch), "--width", str(arguments.width),
                   "--device", arguments.device, "--precision", precision]  # fmt: skip
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[name] = json.loads(output.splitlines()[-1])["iteration"][peer]
        print(f"as users run it: {name} {found[name]['median_ms']:.0f} ms", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--size", type=int, default=256, help="of the pictures (default 256)")
    parser.add_argument("--batch", type=int, default=4, help="(default 4)")
    parser.add_argument("--width", type=int, default=32, help="ngf and ndf (default 32)")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--seconds", type=float, default=5.0, help="for each peer and part (default 5)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each peer (default 7)")
    parser.add_argument("--compile", action="store_true", help="add the plain generator under torch.compile")
    parser.add_argument("--profile", action="store_true", help="say where the time goes")
    parser.add_argument("--growth", action="store_true", help="time and memory against size, batch and width")
    parser.add_argument("--as-users-run", action="store_true", help="add the iteration with each one's defaults")
    parser.add_argument("--only", choices=["t2ilayers", "plain"], help="print one iteration's time as JSON")
    parser.add_argument("--out", help="name of the result, by default model_cpu or model_cuda")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    if arguments.device == "cpu" and arguments.only != "plain":
        keep_large_blocks()
    size, batch, width = arguments.size, arguments.batch, arguments.width
    if arguments.only:
        print(json.dumps(measure(size, batch, width, arguments, parts={"iteration"})))
        return
    record: dict[str, Any] = {"environment": environment(arguments.device)}
    everything = {"sampling", "generator", "iteration"}
    record["rows"] = [measure(size, batch, width, arguments, parts=everything, compiled=arguments.compile)]
    name = arguments.out or f"model_{arguments.device}"
    write(name, record)
    if arguments.as_users_run:
        record["as_users_run"] = as_users_run(arguments)
    path = write(name, record)
    if arguments.growth:
        arguments.profile, arguments.seconds, arguments.rounds = False, 1.5, 3  # many points, each less exact
        record["throughput"] = [measure(size, n, width, arguments, parts={"sampling"}) for n in (1, 64)]
        record["growth"] = {
            varied: [measure(*point, arguments, parts={"sampling", "generator"}) for point in points]
            for varied, points in (
                ("image_size", product((32, 64, 128, 256), (4,), (32,))),
                ("batch", product((64,), (1, 4, 16, 64), (32,))),
                ("width", product((64,), (4,), (16, 32, 64, 128))),
            )
        }
        write(name, record)
    print(path)


if __name__ == "__main__":
    main()
