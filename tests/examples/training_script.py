"""Runs the training scripts as a user does, on tiny models."""

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = {
    "train_ssagan": "--ngf 2 --ndf 2 --mask-channels 4 --sample-every 4",
    "pretrain_damsm": "--measure-every 100 --data shapes",
}


def command(out, *flags, script="train_ssagan"):
    small = f"--image-size 32 --batch-size 4 --steps 6 --save-every 2 --log-every 1 {SMALL[script]}"
    return [sys.executable, str(EXAMPLES / f"{script}.py"), "--out", str(out), *small.split(), *flags]


def run_script(out, *flags, script="train_ssagan"):
    return subprocess.run(command(out, *flags, script=script), capture_output=True, text=True)
