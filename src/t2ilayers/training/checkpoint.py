"""Checkpoints that a crash cannot tear and whose damage is noticed."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import torch

from .._files import open_regular, written_whole
from .._weights import read_torch


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
        ...     (
        ...         sorted(p.name for p in Path(folder).iterdir()),
        ...         load_checkpoint(latest_checkpoint(folder))["step"],
        ...     )
        (['step_00000020.pt', 'step_00000030.pt'], 30)
    """
    if keep < 1:
        raise ValueError(f"keep must be at least 1, got {keep}")
    path = Path(folder) / f"step_{step:08d}.pt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path, durable=True) as temporary, temporary.open("wb") as file:
            torch.save({"step": step, **state}, file)
    except RuntimeError as error:
        disk = error.__context__
        if isinstance(disk, OSError):  # torch.save hides it behind its own
            raise OSError(disk.errno, disk.strerror, str(path)) from error
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    others = [other for other in checkpoints(folder) if other != path]
    for old in others[: max(0, len(others) - (keep - 1))]:
        old.unlink()
    return path


def checkpoints(folder: str | os.PathLike[str]) -> list[Path]:
    """The checkpoints in ``folder``, oldest first."""
    return sorted(Path(folder).glob("step_????????.pt"))


def latest_checkpoint(folder: str | os.PathLike[str]) -> Path:
    """The newest complete checkpoint in ``folder``.

    Raises:
        FileNotFoundError: there is none.
    """
    paths = checkpoints(folder)
    if not paths:
        raise FileNotFoundError(f"no checkpoint in {folder}; start without --resume")
    return paths[-1]


def load_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What :func:`save_checkpoint` wrote, on the CPU, with ``"step"`` among the keys.

    Every byte is compared with the checksums in the file first, since PyTorch does not notice a changed one.

    Raises:
        ValueError: the file is damaged, is no checkpoint, or holds more than tensors and plain containers.
        OSError: there is no such file, or it is a folder, pipe or device.
    """
    with open_regular(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                    raise ValueError("it is compressed, which torch.save never does")
                if (damaged := archive.testzip()) is not None:
                    raise ValueError(f"{damaged} in it has changed since it was written")
        except Exception as error:  # in a damaged file zipfile may fail anywhere
            raise ValueError(f"{os.fspath(path)} is no readable checkpoint: {error!s:.300}") from error
        state = read_torch(path, file)
    if not isinstance(state, dict) or type(state.get("step")) is not int or state["step"] < 0:
        raise ValueError(f"{path} is no checkpoint of a run: it must hold a dictionary with the step")
    return state
