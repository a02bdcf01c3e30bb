"""What the subcommands share: flags are read, and mistakes are one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from textwrap import shorten
from typing import Any, TypeVar

import torch
import tyro
from torch import Tensor

from ..data import BatchDataset, CaptionedDataset
from ..training import NonFiniteLossError, keep_large_blocks, open_standard_streams, say

Flags = TypeVar("Flags")


def read_flags(
    name: str,
    flags: type[Flags],
    arguments: Sequence[str],
    text: str | None = None,
    default: Any = tyro.MISSING_NONPROP,
) -> Flags:
    """The flags of ``t2ilayers NAME`` over ``default``; its help begins with ``text``, or with their docstring."""
    return tyro.cli(flags, prog=f"t2ilayers {name}", args=arguments, description=as_written(text), default=default)


def as_written(text: str | None) -> str | None:
    """A description whose lines stay lines: tyro joins those that begin with a letter, and does not wrap them."""
    return None if text is None else "\n".join(f" {line}" for line in text.splitlines() if line)


def some_pictures(data: CaptionedDataset, seed: int) -> Tensor:
    """``(N, 3, S, S)``: up to 256 of the training pictures, which networks start from."""
    return BatchDataset(data, min(256, len(data)), seed=seed)[0]["image"]


def steps_or_default(steps: int | None, default: int, flag: str) -> int:
    """``steps``, or on an accelerator the default; a CPU is not set to work for days unasked."""
    if steps is None and not torch.accelerator.is_available():
        raise ValueError(f"{flag} must be given on a CPU, where the default, {default:,}, takes days; try 1000")
    return default if steps is None else steps


def run_script(name: str, script: Callable[[], object]) -> int:
    """The exit code of ``t2ilayers NAME``: mistakes are one line and 2, a divergence 1, an interruption 130."""
    open_standard_streams()
    keep_large_blocks()
    try:
        script()
        sys.stdout.flush()
    except (ImportError, OSError, ValueError, NonFiniteLossError) as error:
        first, *more = str(error).splitlines() or [type(error).__name__]
        lines = [f"t2ilayers {name}: {shorten(first, 600)}", *(f"  {shorten(line, 200)}" for line in more)]
        say("\n".join(lines), error=True)
        return 1 if isinstance(error, NonFiniteLossError) else 2
    except KeyboardInterrupt:
        return 130
    return 0
