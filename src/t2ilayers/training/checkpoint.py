"""Checkpoints that a crash cannot tear: written beside their place, flushed, then moved into it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch


def save_checkpoint(folder: str | os.PathLike[str], step: int, state: dict[str, Any], *, keep: int = 2) -> Path:
    """Write ``state`` as ``folder/step_XXXXXXXX.pt`` and remove all but the newest ``keep`` checkpoints.

    A file of that name is always complete: the bytes go to a temporary name, are flushed to the disk, and the
    file is moved over. A failure on the way (disk full, a kill) leaves the earlier checkpoints as they were.

    Args:
        folder: made if it is missing.
        step: >= 0; what ``--resume`` continues from.
        state: tensors, numbers, strings and containers of these, since it is read with ``weights_only=True``.
        keep: how many checkpoints stay, >= 1.

    Raises:
        ValueError: ``keep`` under 1.
        OSError: the disk's own error.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for step in (10, 20, 30):
        ...         path = save_checkpoint(folder, step, {"weight": torch.ones(2)})
        ...     sorted(p.name for p in Path(folder).iterdir()), load_checkpoint(latest_checkpoint(folder))["step"]
        (['step_00000020.pt', 'step_00000030.pt'], 30)
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{step:08d}.pt"
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as file:
            torch.save({"step": step, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        disk = error.__context__
        if isinstance(error, RuntimeError) and isinstance(disk, OSError):  # torch.save hides it behind its own
            raise OSError(disk.errno, disk.strerror, str(path)) from error
        raise
    others = [other for other in _checkpoints(folder) if other != path]
    for old in others[: max(0, len(others) - (keep - 1))]:
        old.unlink()
    for torn in folder.glob("step_????????.tmp"):  # of a save that was killed
        torn.unlink()
    return path


def latest_checkpoint(folder: str | os.PathLike[str]) -> Path:
    """The newest complete checkpoint in ``folder``.

    Raises:
        FileNotFoundError: there is none.

    Example: see :func:`save_checkpoint`.
    """
    paths = _checkpoints(Path(folder))
    if not paths:
        raise FileNotFoundError(f"no checkpoint in {folder}; start without --resume")
    return paths[-1]


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What :func:`save_checkpoint` wrote, on the CPU, with ``"step"`` among the keys.

    Raises:
        ValueError: the file is damaged or holds more than tensors and plain containers.

    Example: see :func:`save_checkpoint`.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(f"{path} is no readable checkpoint: {error}") from error
    return state


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step_????????.pt"))
