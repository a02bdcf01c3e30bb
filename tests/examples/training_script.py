"""Runs examples/train_ssagan.py as a user does, on a tiny model."""

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples" / "train_ssagan.py"


def command(out, *flags):
    small = "--image-size 32 --ngf 2 --ndf 2 --mask-channels 4 --batch-size 4 --damsm-steps 3 --steps 6"
    small += " --save-every 2 --sample-every 4 --log-every 1"
    return [sys.executable, str(SCRIPT), "--out", str(out), *small.split(), *flags]


def run_script(out, *flags):
    return subprocess.run(command(out, *flags), capture_output=True, text=True)
