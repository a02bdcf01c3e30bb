"""What a training run is told, which its checkpoints carry."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar


@dataclasses.dataclass
class RunConfig:
    """The settings of every run; scripts add fields of their own, each with a default.

    A checkpoint carries all fields. On resuming, those outside ``may_change`` must be as they were. A field
    that the checkpoint lacks, since a later version added it, counts as its default.

    Attributes:
        data: Drawn shapes ("shapes"), published data ("cub:ROOT", "coco:ROOT"), tar files ("shards:PATTERN") or a
            folder of captioned pictures. Anything but shapes is checked by python -m t2ilayers.data.validate.
        out: Folder that everything is written to.
        batch_size: Pictures per step, over all processes, at least 1.
        seed: Of weights, data order, captions, noise and dropout, at least 0.
        workers: Processes that load data, at least 0; 0 loads in the training process.
        log_every: Steps between log lines, at least 1.
        save_every: Steps between checkpoints, at least 1.
        resume: Continue from the newest whole checkpoint in --out, with the flags of the run that was interrupted.

    Raises:
        ValueError: from :meth:`check`, a number outside its range.
    """

    may_change: ClassVar[tuple[str, ...]] = ("data", "out", "workers", "log_every", "save_every", "resume")
    least: ClassVar[dict[str, int]] = {"batch_size": 1, "seed": 0, "workers": 0, "log_every": 1, "save_every": 1}

    data: str = "shapes"
    out: Path = Path("runs/run")
    batch_size: int = 24
    seed: int = 0
    workers: int = 0
    log_every: int = 10
    save_every: int = 500
    resume: bool = False

    def check(self) -> None:
        """Refuse what would only show after hours."""
        for name, least in self.least.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"--{flag_of(name)} must be at least {least}, got {value}")

    def flags(self) -> dict[str, Any]:
        """All fields by name, as plain values, and those of a field that is itself a dataclass."""
        flags: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if dataclasses.is_dataclass(value) and not isinstance(value, type):
                flags |= dataclasses.asdict(value)
            else:
                flags[field.name] = str(value) if isinstance(value, Path) else value
        return flags


def flag_of(name: str) -> str:
    """The name of a field on the command line."""
    return name.replace("_", "-")
