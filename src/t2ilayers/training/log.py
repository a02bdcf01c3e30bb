"""Losses to metrics.jsonl, TensorBoard and a progress bar, and the check that they are finite."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

PHASES = ("damsm", "gan")


class NonFiniteLossError(RuntimeError):
    """A loss, or a weight, became NaN or infinite; the message says which one and where.

    Example:
        >>> str(NonFiniteLossError("d_fake is nan at gan step 7"))
        'd_fake is nan at gan step 7'
    """


class Bar(Protocol):
    """What the log asks of a progress bar; tqdm's is one.

    Example:
        >>> class Silent:
        ...     def set_postfix(self, ordered_dict): ...
        >>> bar: Bar = Silent()
    """

    def set_postfix(self, ordered_dict: Mapping[str, str]) -> object:
        """Show these values.

        Example: see the class.
        """


class MetricsLog:
    """Averages losses over some steps and writes them, after checking each of them.

    Losses stay where they are until a line is due, and are then read in one go: reading them in each step
    would make a GPU wait.

    Args:
        folder: receives ``metrics.jsonl``, an object a line with ``phase``, ``step``, ``steps_per_second`` and
            the mean losses, and ``tensorboard/``, a run a phase.
        every: steps a line, >= 1.
        write: False in all processes but one; these only check.

    Raises:
        ValueError: ``every`` under 1.

    Example:
        >>> import tempfile
        >>> class Silent:
        ...     def set_postfix(self, ordered_dict): ...
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     log = MetricsLog(folder, every=2)
        ...     log.start("gan", 0)
        ...     for step, loss in enumerate((1.0, 3.0)):
        ...         log.add("gan", step, {"d_real": torch.tensor(loss)}, Silent())
        ...     log.close()
        ...     row = json.loads((Path(folder) / "metrics.jsonl").read_text())
        >>> row["phase"], row["step"], row["d_real"]
        ('gan', 1, 2.0)
    """

    def __init__(self, folder: str | os.PathLike[str], *, every: int = 10, write: bool = True) -> None:
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self.folder = Path(folder)
        self.file = self.folder / "metrics.jsonl"
        self.every = every
        self.write = write
        self.boards: dict[str, Any] = {}  # a SummaryWriter a phase; TensorBoard is imported when writing starts
        self._pending: list[tuple[int, dict[str, Tensor]]] = []
        self._since = time.perf_counter()

    def start(self, phase: str, step: int) -> None:
        """Begin, or continue, at ``step`` of ``phase``: lines of an interrupted run beyond it are dropped.

        Example: see the class.
        """
        if not self.write:
            return
        from torch.utils.tensorboard import SummaryWriter

        self.folder.mkdir(parents=True, exist_ok=True)
        end = (PHASES.index(phase), step)
        kept = [row for row in self._rows() if (PHASES.index(row["phase"]), row["step"]) < end]
        temporary = self.file.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
        temporary.replace(self.file)
        for name in PHASES:  # steps count from 0 in each
            self.boards[name] = SummaryWriter(
                str(self.folder / "tensorboard" / name), purge_step=step if name == phase and step else None
            )

    def _rows(self) -> list[dict[str, Any]]:
        rows = []
        lines = self.file.read_text().splitlines() if self.file.exists() else []
        for number, line in enumerate(lines, 1):
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                if number < len(lines):  # the last line is torn where the process was killed in writing it
                    raise ValueError(f"{self.file} line {number} is no JSON: {error}") from error
        return rows

    def restart_clock(self) -> None:
        """Leave out what was not training from ``steps_per_second``.

        Example:
            >>> import tempfile
            >>> MetricsLog(tempfile.gettempdir()).restart_clock()
        """
        self._since = time.perf_counter()

    def add(self, phase: str, step: int, losses: dict[str, Tensor], bar: Bar) -> None:
        """Note the losses of ``step``, scalars ``()`` by name; write a line where one is due.

        Raises:
            NonFiniteLossError: from :meth:`flush`.

        Example: see the class.
        """
        self._pending.append((step, losses))
        if len(self._pending) >= self.every:
            self.flush(phase, bar)

    def flush(self, phase: str, bar: Bar) -> None:
        """Write what was noted since the last line.

        Raises:
            NonFiniteLossError: a loss is NaN or infinite; nothing is written.

        Example: see the class.
        """
        if not self._pending:
            return
        places = [(step, name) for step, losses in self._pending for name in losses]
        values = torch.stack([v.float() for _, losses in self._pending for v in losses.values()]).tolist()
        by_name: dict[str, list[float]] = {}
        for (step, name), value in zip(places, values, strict=True):
            if not math.isfinite(value):
                raise NonFiniteLossError(f"{name} is {value} at {phase} step {step}")
            by_name.setdefault(name, []).append(value)
        mean = {name: sum(seen) / len(seen) for name, seen in by_name.items()}
        step, rate = self._pending[-1][0], len(self._pending) / (time.perf_counter() - self._since)
        self._pending.clear()
        self.restart_clock()
        if not self.write:
            return
        with self.file.open("a") as file:
            file.write(json.dumps({"phase": phase, "step": step, **mean, "steps_per_second": rate}) + "\n")
        for name, value in mean.items():
            self.boards[phase].add_scalar(name, value, step)
        # A bar has no room for the encoders' losses beside the GAN's.
        shown = {name: v for name, v in mean.items() if phase != "gan" or name.startswith(("d_", "g_"))}
        bar.set_postfix({name: f"{value:.2f}" for name, value in shown.items()})

    def close(self) -> None:
        """Flush and close TensorBoard's files.

        Example: see the class.
        """
        for board in self.boards.values():
            board.close()
