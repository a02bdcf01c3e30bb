"""Write a model's generator and text encoder as ONNX files.

t2ilayers export runs/demo/model --out runs/demo/onnx
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from ..models import SSAGAN
from ..training import say
from ._script import read_flags, run_script


@dataclass
class Arguments:
    """Write a model's generator and text encoder as ONNX files, with their vocabulary."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Folder written by SSAGAN.save_pretrained, or the name of a model of the package."""
    out: Path = Path("onnx")
    """Folder for generator.onnx, text_encoder.onnx and vocabulary.json."""
    half: bool = False
    """Keep the weights in half precision: half the size; arithmetic stays in float32."""


def export(arguments: Arguments) -> None:
    model = SSAGAN.from_pretrained(arguments.model, discriminator=False, image_encoder=False)
    for path in model.to_onnx(arguments.out, half=arguments.half):
        say(f"{path}  {path.stat().st_size / 1e6:.1f} MB")


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    return run_script("export", lambda: export(read_flags("export", Arguments, arguments)))
