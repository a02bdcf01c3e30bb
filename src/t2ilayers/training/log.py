"""Losses to metrics.jsonl and TensorBoard, and the check that they are finite."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._files import written_whole
from ..figures import loss_curves


class NonFiniteLossError(RuntimeError):
    """A loss, or a weight, became NaN or infinite; the message says which one and where."""


class MetricsLog:
    """Averages losses over some steps and writes them, after checking each of them.

    Losses stay on their device until a line is due, and are then read together: reading them in each step
    would make a GPU wait. A name such as ``discriminator/real`` begins with its group. TensorBoard and
    :func:`~t2ilayers.figures.loss_curves` draw the curves of a group together.

    Args:
        folder: receives ``metrics.jsonl``, one JSON object per line with ``step``, ``steps_per_second`` and the
            mean losses, and ``tensorboard/``.
        every: steps per line, >= 1.
        write: False in all processes but one; the others only check.

    Attributes:
        board: TensorBoard's writer, from :meth:`start` on; None in processes that do not write.
        rate: steps per second, as last written.

    Raises:
        ValueError: ``every`` under 1.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     log = MetricsLog(folder, every=2)
        ...     log.start(0)
        ...     for step, loss in enumerate((1.0, 3.0)):
        ...         _ = log.add(step, {"discriminator/real": torch.tensor(loss)})
        ...     log.close()
        ...     row = json.loads((Path(folder) / "metrics.jsonl").read_text())
        >>> row["step"], row["discriminator/real"]
        (1, 2.0)
    """

    def __init__(self, folder: str | os.PathLike[str], *, every: int = 10, write: bool = True) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self.folder = Path(folder)
        self.file = self.folder / "metrics.jsonl"
        self.every = every
        self.write = write
        self.board: Any = None
        self.rate = 0.0
        self._rows: list[dict[str, Any]] = []
        self._pending: list[tuple[int, Mapping[str, Tensor | float]]] = []
        self._timed = 0  # steps since the clock was started
        self._since = time.perf_counter()

    def start(self, step: int) -> None:
        """Begin, or continue, at ``step``: lines of an interrupted run beyond it are dropped.

        A file with lines that no run wrote does not end the run: it is kept as ``metrics.jsonl.foreign``, and
        standard error says so.
        """
        if not self.write:
            return
        from torch.utils.tensorboard import SummaryWriter  # an extra

        self.folder.mkdir(parents=True, exist_ok=True)
        lines = self.file.read_bytes().splitlines() if self.file.exists() else []
        rows = [_row(line) for line in lines]
        if None in rows[:-1]:  # the last line is torn where the process was killed while writing it
            foreign = self.file.with_name(f"{self.file.name}.foreign")
            self.file.replace(foreign)
            print(f"{self.file} has lines that no run wrote; it is now {foreign}", file=sys.stderr)
        self._rows = [row for row in rows if row is not None and row["step"] < step]
        with written_whole(self.file) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in self._rows))
        self.board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=step or None)
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leave out what was not training from ``steps_per_second``."""
        self._timed = 0
        self._since = time.perf_counter()

    def describe(self, step: int, text: str) -> None:
        """Show ``text``, plain lines, among TensorBoard's texts: what the run is that begins at ``step``."""
        if self.write:
            self.board.add_text("run", "".join(f"    {line}\n" for line in text.splitlines()), step)

    def add(self, step: int, losses: Mapping[str, Tensor | float]) -> dict[str, float]:
        """Note the losses of ``step``, numbers or scalars ``()`` of one device; write a line where one is due.

        Returns:
            The means that were written, or nothing.

        Raises:
            NonFiniteLossError: from :meth:`flush`.
        """
        self._pending.append((step, losses))
        self._timed += 1
        return self.flush() if len(self._pending) >= self.every else {}

    def flush(self) -> dict[str, float]:
        """Write what was noted since the last line, and return it.

        Raises:
            NonFiniteLossError: a loss is NaN or infinite; nothing is written.
            OSError: the disk's own error, with the file's name.
        """
        if not self._pending:
            return {}
        places = [(step, name, value) for step, losses in self._pending for name, value in losses.items()]
        tensors = [value.float() for _, _, value in places if isinstance(value, Tensor)]
        fetched = iter(torch.stack(tensors).tolist() if tensors else ())  # all at once: each fetch waits for a GPU
        by_name: dict[str, list[float]] = {}
        for step, name, given in places:
            value = next(fetched) if isinstance(given, Tensor) else given
            if not math.isfinite(value):
                raise NonFiniteLossError(f"{name} is {value} at step {step}")
            by_name.setdefault(name, []).append(value)
        means = {name: sum(seen) / len(seen) for name, seen in by_name.items()}
        step = self._pending[-1][0]
        self.rate = self._timed / max(time.perf_counter() - self._since, 1e-9)
        self._pending.clear()
        self.restart_clock()
        if self.write:
            row = {"step": step, **means, "steps_per_second": self.rate}
            self._rows.append(row)
            try:
                with self.file.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                for name, value in {**means, "speed/steps_per_second": self.rate}.items():
                    self.board.add_scalar(name, value, step)
            except OSError as error:
                raise OSError(error.errno, error.strerror, error.filename or str(self.file)) from error
        return means

    def draw(self, path: str | os.PathLike[str]) -> None:
        """Draw the losses as a PNG (see :func:`~t2ilayers.figures.loss_curves`), once there are any."""
        if self._rows:
            loss_curves(self._rows, path)

    def close(self) -> None:
        """Flush and close TensorBoard's files."""
        if self.board is not None:
            self.board.close()


def _row(line: bytes) -> dict[str, Any] | None:
    """A line that a run wrote; None for any other."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) and type(row.get("step")) is int else None
