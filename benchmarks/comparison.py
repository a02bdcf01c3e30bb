"""Generators of the family, and ways to train them, with all else the same: what each draws after equal minutes.

    OMP_NUM_THREADS=1 python benchmarks/comparison.py time shapes
    python benchmarks/comparison.py run shapes ssa --seed 0
    python benchmarks/comparison.py judge shapes ssa --seed 0
    python benchmarks/comparison.py collect shapes

``time`` measures a step of each on an idle machine, in turn, and so says how many steps the minutes are. ``run``
trains one; since it counts steps, it may share the machine. ``judge`` measures it, and ``collect`` writes what was
measured into ``benchmarks/results``. Both data sets start from encoders that were pre-trained once::

    t2ilayers pretrain --data shapes --image-size 32 --image-width 32 --batch-size 128 --no-words --steps 800 \\
      --out runs/comparison/shapes/encoders
    t2ilayers build emoji emoji-datasource-google-*.tgz runs/emoji
    t2ilayers pretrain --data runs/emoji --image-size 32 --image-width 32 --batch-size 128 --no-words \\
      --embedding-std 1 --steps 800 --out runs/comparison/emoji/encoders
"""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import masks
import torch
from common import RESULTS, environment, time_in_turn, write

from t2ilayers.cli._configs import read_train_config
from t2ilayers.cli.train import open_model
from t2ilayers.data import BatchDataset, open_dataset
from t2ilayers.training import SSAGANStep, keep_large_blocks

RUNS = Path("runs/comparison")
SHARED = (
    "--image-size 32 --ngf 16 --ndf 16 --batch-size 32 --mask-channels 32 --hidden-dim 64 --penalty-every 4 "
    "--text-encoder frozen --lr-encoders 2e-4 --ema 0.99 --lr-generator 1e-3 "
    "--lr-discriminator 1e-3 --precision fp32"
)
# Flags of train, flags of evaluate, minutes of one core. Narrower than `make demo`, and the text encoder frozen: a
# step of the encoders takes half as long as one of these two networks. The contrastive loss does harm on emoji,
# DAMSM on shapes.
DATA = {
    "shapes": (f"--data shapes {SHARED} --contrast-weight 1 --damsm-weight 0.2", "--data shapes", 5),
    "emoji": (
        f"--data runs/emoji {SHARED} --contrast-weight 0 --damsm-weight 0 --no-words --residual-gate 1 --whiten",
        "--data runs/emoji --outside runs/comparison/emoji/outside.safetensors --samples 1000",
        4,
    ),
}
GENERATORS = {
    "ssa": "",
    "ssa-unmasked": "--generator ssa-unmasked",
    "df": "--generator df",
    "rat": "--generator rat",
}
CLAIMS = {
    "joint": "--text-encoder joint",
    "damsm-0": "--damsm-weight 0",
    "damsm-0.05": "--damsm-weight 0.05",
    "damsm-0.1": "--damsm-weight 0.1",
    "damsm-0.2": "--damsm-weight 0.2",
    "contrast-0": "--contrast-weight 0",
    "contrast-0.1": "--contrast-weight 0.1",
    "contrast-1": "--contrast-weight 1",
    "contrast-queue": "--contrast-weight 1 --contrast-queue 1024",
}
MASKS = {"one-mask": "", "mask-per-affine": ""}  # see masks.py
VARIANTS = GENERATORS | CLAIMS | MASKS


def folder_of(data: str, variant: str, seed: int) -> Path:
    return RUNS / data / f"{variant}_{seed}"


def flags_of(data: str, variant: str) -> list[str]:
    encoders = RUNS / data / "encoders" / "encoders"
    return [*DATA[data][0].split(), "--encoders", str(encoders), *VARIANTS[variant].split()]


def t2ilayers(variant: str, command: list[str]) -> None:
    program = [str(Path(__file__).with_name("masks.py")), variant] if variant in MASKS else ["-m", "t2ilayers"]
    subprocess.run([sys.executable, *program, *command], check=True)


def measure_time(data: str, variants: Sequence[str]) -> None:
    calls = {}
    for variant in variants:
        config = read_train_config([*flags_of(data, variant), "--steps", "1"], __doc__)
        torch.manual_seed(0)
        dataset = open_dataset(config.data, "train", image_size=config.image_size, seed=0)
        masks.use(variant)
        model = open_model(config, dataset)
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it
        batches = BatchDataset(dataset, config.batch_size, seed=0)
        training = SSAGANStep(model, config.step)
        steps = itertools.count()

        def several(every=config.step.penalty_every, training=training, batches=batches, steps=steps) -> None:
            for _ in range(every):  # one of them has the penalty
                step = next(steps)
                training(batches[step % 64], step)

        calls[variant] = several
    table = time_in_turn(calls, "cpu", seconds=6, rounds=5)
    path = RESULTS / f"comparison_{data}_time.json"
    times = json.loads(path.read_text())["times"] if path.exists() else {}
    for variant, row in table.items():
        seconds = row["median_ms"] / 1e3 / 4
        steps = round(60 * DATA[data][2] / seconds)
        times[variant] = {"seconds_per_step": seconds, "steps": steps, "environment": environment("cpu")}
        print(f"{variant}: {seconds:.3f} s for a step, {steps} steps")
    write(path.stem, {"minutes": DATA[data][2], "times": times})


def steps_of(times: dict[str, Any], variant: str) -> int:
    """As many as the minutes hold; weights of the contrastive loss that were not timed take as many as SSA-GAN."""
    alike = variant.startswith("contrast-") and variant not in times
    return int(times["ssa" if alike else variant]["steps"])


def run(data: str, variant: str, seed: int) -> None:
    steps = steps_of(json.loads((RESULTS / f"comparison_{data}_time.json").read_text())["times"], variant)
    out = folder_of(data, variant, seed)
    command = ["train", *flags_of(data, variant), "--steps", str(steps), "--seed", str(seed)]
    command += ["--sample-every", "1000000", "--save-every", "200", "--out", str(out)]
    if (out / "run.json").exists():
        command.append("--resume")
    t2ilayers(variant, command)


def judge(data: str, variant: str, seed: int) -> None:
    out = folder_of(data, variant, seed)
    command = ["evaluate", str(out / "model"), *DATA[data][1].split(), "--out", str(out / "evaluation.json")]
    command += ["--judge", str(RUNS / data / "encoders" / "encoders")]  # the same for all
    t2ilayers(variant, command)


def measured(results: dict[str, Any], of: str, name: str = "") -> dict[str, float]:
    """What an evaluation says of "generated" or of "real" pictures, by flat names."""
    found = {}
    for key, value in results.items():
        if key == of:
            found[name] = value["mean"] if isinstance(value, dict) else value
        elif key == "masks" and of == "generated":
            found["best mask IoU"] = max(value["best"]["iou"], value["best"]["inverted_iou"])
        elif key in ("density_coverage", "prompt_diversity") and of == "generated":
            found |= {f"{key} {inner}": number for inner, number in value.items() if isinstance(number, float)}
        elif isinstance(value, dict):
            by = "outside " if key == "outside" else ""
            found |= {by + inner: number for inner, number in measured(value, of, key).items()}
    return found


def collect(data: str) -> None:
    times = json.loads((RESULTS / f"comparison_{data}_time.json").read_text())
    variants: dict[str, Any] = {}
    real: dict[str, float] = {}
    for variant in VARIANTS:
        runs: dict[str, dict[str, float]] = {}
        for path in sorted((RUNS / data).glob(f"{variant}_[0-9]*/evaluation.json")):
            results = json.loads(path.read_text())
            runs[path.parent.name.removeprefix(f"{variant}_")] = measured(results, "generated")
            real |= measured(results, "real")
        if runs:
            variants[variant] = {
                "program": f"python benchmarks/masks.py {variant}" if variant in MASKS else "t2ilayers",
                "flags": shlex.join(flags_of(data, variant)),
                "steps": steps_of(times["times"], variant),
                "seeds": list(runs),
                "values": {name: [run[name] for run in runs.values()] for name in next(iter(runs.values()))},
            }
    record = {"data": data, "minutes": times["minutes"], "real": real, "variants": variants}
    print(json.dumps(record, indent=1))
    write(f"comparison_{data}", {"environment": environment("cpu")} | record)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("time", "run", "judge", "collect"))
    parser.add_argument("data", choices=DATA)
    parser.add_argument("variants", nargs="*", default=list(GENERATORS), help=f"of {', '.join(VARIANTS)}")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    keep_large_blocks()
    if arguments.what == "time":
        measure_time(arguments.data, arguments.variants)
    elif arguments.what == "collect":
        collect(arguments.data)
    else:
        for variant in arguments.variants:
            {"run": run, "judge": judge}[arguments.what](arguments.data, variant, arguments.seed)


if __name__ == "__main__":
    main()
