"""A training run in a folder: begun or resumed, interrupted, logged and saved, so that no whole step is lost."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from typing_extensions import Self

import t2ilayers  # for its version

from .._files import remove_torn, written_whole
from ..data import Batch, CaptionedDataset
from .checkpoint import checkpoints, latest_checkpoint, load_checkpoint, save_checkpoint
from .loading import load_batches, next_batch
from .lock import FolderLock
from .log import MetricsLog, NonFiniteLossError
from .processes import Processes
from .run_config import RunConfig, flag_of
from .signals import Console, Interrupt, say
from .snapshot import Snapshot


class Training(Protocol):
    """What a run saves and restores: an :class:`EncoderStep` or :class:`SSAGANStep`, or one of your own."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state_dict`."""


class Run:
    """A run of ``training`` on ``data`` in the folder ``config.out``, which it holds against other runs.

    What a step does depends on the seed and its number alone, so a run resumed from a checkpoint is exactly the
    run that was not interrupted. Whatever ends the ``with`` block (a signal, an error of the data, of the disk or
    of the model, a loader process that died) leaves a checkpoint of the last whole step if one can be written. For
    this, the state of ``training`` is copied before each step: it takes its memory twice in the process that
    writes.

    Args:
        config: see :class:`RunConfig`.
        training: what takes the steps; its state is restored if ``config.resume``.
        model: the module with all weights and buffers that a step changes.
        data: where the batches come from; a resumed run must find it unchanged.
        stream: tells the random numbers of runs with one seed apart: pre-training 0, GAN 1.
        processes: those that share each batch; rank 0 writes.
        device: of the model and the batches.
        shown: losses that the progress bar shows, by a short name.
        on_save: called after each checkpoint, in the process that writes.

    Attributes:
        done: whole steps behind it; after a resume, those of the checkpoint.

    Raises:
        ValueError: another run's folder, or one in use; flags, words or pictures that changed since the
            checkpoint; checkpoints that are damaged or foreign.
        FileNotFoundError: nothing to resume.
        NonFiniteLossError: a loss or a weight is NaN or infinite; no checkpoint is written of it.
        KeyboardInterrupt: a signal asked for the end.

    Example:
        >>> import tempfile
        >>> from t2ilayers.data import CaptionedShapes
        >>> from t2ilayers.encoders import (
        ...     ConvImageEncoder,
        ...     EncoderPair,
        ...     LSTMTextEncoder,
        ... )
        >>> from t2ilayers.training import EncoderStep
        >>> data = CaptionedShapes(64, image_size=32)
        >>> pair = EncoderPair(
        ...     LSTMTextEncoder(len(data.vocabulary)),
        ...     ConvImageEncoder(32),
        ...     data.vocabulary,
        ... )
        >>> training = EncoderStep(pair, lr=2e-3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with Run(
        ...         RunConfig(out=Path(folder), batch_size=8), training, pair, data
        ...     ) as run:
        ...         for step, batch in run.steps(2):
        ...             run.record(training(batch))
        ...     [path.name for path in Path(folder, "checkpoints").iterdir()]
        ['step_00000002.pt']
    """

    def __init__(
        self,
        config: RunConfig,
        training: Training,
        model: nn.Module,
        data: CaptionedDataset,
        *,
        stream: int = 0,
        processes: Processes | None = None,
        device: torch.device | None = None,
        shown: Mapping[str, str] | None = None,
        on_save: Callable[[], object] | None = None,
    ) -> None:
        config.check()
        self.config = config
        self.training = training
        self.model = model
        self.data = data
        self.stream = stream
        self.processes = Processes() if processes is None else processes
        self.device = torch.device("cpu") if device is None else device
        self.shown = {} if shown is None else shown
        self.on_save = on_save
        self.writes = self.processes.rank == 0
        self.done = 0
        self.log = MetricsLog(config.out, every=config.log_every, write=self.writes)
        self._checkpoints = config.out / "checkpoints"
        self._saved = 0
        self._in_step = False
        self._before = Snapshot()  # of the step that is being taken
        self._bar: Any = None
        self._console = Console()
        self._estimated = False
        self._began = time.monotonic()
        self._cleanup = contextlib.ExitStack()

    # What begins and ends a run.

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            if self.writes:
                _check_name(self.config.out)
                self.config.out.mkdir(parents=True, exist_ok=True)
                stack.callback(FolderLock(self.config.out).release)
                remove_torn(self.config.out)
            self._interrupt = Interrupt()
            stack.callback(self._interrupt.restore)
            self._restore()
            self.log.start(self.done)
            stack.callback(self.log.close)
            self._cleanup = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._cleanup:
            if error is not None and self.writes:
                self._rescue(error)

    def _rescue(self, error: BaseException) -> None:
        """Save the last whole step, if there is one to be saved, and say where the run stands."""
        lost = ""
        if not isinstance(error, NonFiniteLossError) and self.done > self._saved:
            try:
                if self._in_step:
                    self.training.load_state_dict(self._before.state)
                self.save()
            except Exception as failure:  # the first error is the one to raise
                lost = f"step {self.done} could not be saved ({failure})"
        kept = checkpoints(self._checkpoints)
        last = f"the last good checkpoint is {kept[-1]}" if kept else "there is no checkpoint yet"
        ended = "stopped" if isinstance(error, KeyboardInterrupt) else "training stopped"
        then = "; the same flags and --resume continue" if kept else ""
        if isinstance(error, NonFiniteLossError):
            then = "; resume with smaller learning rates, or start again with --precision fp32"
        parts = [ended, lost, last] if lost else [ended, last]
        self._console.write("\n" + "; ".join(parts) + then + "\n")

    def _restore(self) -> None:
        self._digest = self.data.digest() if self.writes else ""
        path = self._newest()
        if path is None:
            return
        state = load_checkpoint(path)
        self._check_same_run(path, state)
        try:
            self.training.load_state_dict(state)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise ValueError(f"{path} is no checkpoint of this run: {error}") from error
        self.done = self._saved = state["step"]

    def _newest(self) -> Path | None:
        """The newest checkpoint that is whole, agreed on by all processes; None for a new run."""
        found: list[Any] = [None]
        if self.writes:
            try:
                found = [self._find_newest()]
            except (OSError, ValueError) as error:
                found = [error]
        if self.processes.group is not None:
            dist.broadcast_object_list(found, group=self.processes.group, device=self.device)
        if isinstance(found[0], Exception):
            raise found[0]
        return found[0]

    def _find_newest(self) -> Path | None:
        if not self.config.resume:
            if checkpoints(self._checkpoints):
                raise ValueError(
                    f"{self.config.out} holds another run's checkpoints; continue it with --resume or use another "
                    "--out"
                )
            return None
        while True:
            newest = latest_checkpoint(self._checkpoints)
            try:
                load_checkpoint(newest)
                return newest
            except ValueError as error:
                if len(checkpoints(self._checkpoints)) == 1:
                    raise
                newest.replace(newest.with_suffix(".damaged"))
                self._console.write(f"{error}; the one before it is taken, and it is now {newest.stem}.damaged\n")

    def _check_same_run(self, path: Path, state: dict[str, Any]) -> None:
        theirs, words = state.get("flags"), state.get("vocabulary")
        if not isinstance(theirs, dict) or "phase" in state:
            raise ValueError(
                f"{path} is no checkpoint of this script; one of an earlier version is continued by that version"
            )
        ours, defaults = self.config.flags(), type(self.config)().flags()
        for name, value in ours.items():
            then = theirs.get(name, defaults[name])
            if name not in self.config.may_change and then != value:
                raise ValueError(f"{path} was trained with --{flag_of(name)} {then}, this run has {value}")
        if words != list(self.data.vocabulary.words):
            raise ValueError(f"{path} was trained with another vocabulary than that of {self.config.data}")
        if self.writes and state.get("data", self._digest) != self._digest:
            raise ValueError(
                f"{path} was trained with other captions or pictures than {self.config.data} has now; bring back "
                "those it was begun with, or begin another run in another --out"
            )

    # What happens in each step.

    def steps(self, stop: int) -> Iterator[tuple[int, Batch]]:
        """Numbers and batches of the steps from :attr:`done` up to ``stop``; :meth:`record` ends each.

        A checkpoint is written where one is due, and after the last step.
        """
        from tqdm import tqdm  # an extra

        self._bar = tqdm(
            total=stop,
            initial=self.done,
            disable=not self.writes,
            file=self._console,
            bar_format=_BAR,
            mininterval=0.5,
            unit="",
        )
        self.log.restart_clock()
        config, processes, steps = self.config, self.processes, range(self.done, stop)
        loader = load_batches(
            self.data,
            steps,
            batch_size=config.batch_size,
            seed=config.seed,
            workers=config.workers,
            processes=processes,
        )
        with self._bar, loader as batches:
            for step in steps:
                batch = next_batch(batches, self._interrupt, processes=processes, device=self.device)
                # Noise and dropout depend on nothing but seed, stream and step, and are alike in all processes.
                seed = np.random.SeedSequence([config.seed, self.stream, step]).generate_state(1, np.uint64)
                torch.manual_seed(int(seed[0] >> 1))
                if self.writes:
                    self._before.take(self.training.state_dict())
                self._in_step = True
                yield step, batch
                if self._in_step:
                    raise RuntimeError(f"step {step} must be given to record()")
                if self.due(config.save_every) or self.done == stop:
                    self.save()

    def record(self, losses: Mapping[str, Tensor | float]) -> None:
        """End a step: it is whole, and these are its losses.

        Raises:
            NonFiniteLossError: one of the losses since the last line is NaN or infinite.
        """
        step, self._in_step = self.done, False
        self.done += 1
        means = self.log.add(step, losses)
        self._bar.update()
        if not means:
            return
        shown = (f"{short} {means[name]:.2f}" for name, short in self.shown.items() if name in means)
        self._bar.set_postfix_str(" ".join(shown))
        if not self._estimated:
            self._estimated = True
            left = (self._bar.total - self.done) / self.log.rate
            self.say(f"{1 / self.log.rate:.2g} s per step, about {_duration(left)} to go")

    def due(self, every: int) -> bool:
        """Whether so many steps are behind it, or a multiple of them."""
        return self.done % every == 0

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Work that is no training, such as drawing samples: losses are written before, time is not counted."""
        self.log.flush()
        yield
        self.log.restart_clock()

    def save(self) -> None:
        """Write a checkpoint of the steps that are done, after losses and weights were found finite."""
        with self.aside():
            if not self.writes:
                return
            for name, weight in self.model.named_parameters():
                if not weight.isfinite().all():
                    raise NonFiniteLossError(f"weight {name} is not finite after step {self.done - 1}")
            marks = {
                "flags": self.config.flags(),
                "vocabulary": list(self.data.vocabulary.words),
                "data": self._digest,
            }
            save_checkpoint(self._checkpoints, self.done, self.training.state_dict() | marks)
            self._saved = self.done
            if self.on_save is not None:
                self.on_save()

    # What is said at the beginning and at the end.

    def announce(self, stop: int, **rows: object) -> None:
        """Say what the run will do, with ``rows`` of the script's own."""
        if not self.writes:
            return
        config, count, device = self.config, self.processes.count, str(self.device)
        if self.device.type == "cpu":
            device += f", {_count(torch.get_num_threads(), 'thread')}"
        sizes = {
            name: sum(weight.numel() for weight in part.parameters()) for name, part in self.model.named_children()
        }
        table = {
            "device": f"{device}, {_count(count, 'process', 'processes')}",
            "data": f"{config.data}: {len(self.data):,} pictures, {len(self.data.vocabulary):,} words",
            "model": ", ".join(f"{name.replace('_', ' ')} {size:,}" for name, size in sizes.items()),
            "steps": f"{self.done:,} to {stop:,}, {config.batch_size} pictures each, "
            f"{stop * config.batch_size / len(self.data):.3g} passes over the data",
            **rows,
            "folder": f"{config.out}{', resumed' if self.done else ''}",
        }
        say(_table(table))
        self.log.describe(self.done, f"{shlex.join(sys.argv)}\n\n{_table(table)}")

    def say(self, text: str) -> None:
        """A line above the progress bar."""
        if self.writes:
            self._bar.write(text, file=self._console)

    def finish(self, places: Mapping[str, object], **results: object) -> None:
        """Write what it takes to repeat the run, and ``results``, to run.json; say where to look."""
        if not self.writes:
            return
        run = {
            "command": shlex.join(sys.argv),
            "flags": self.config.flags(),
            **results,
            "seconds": round(time.monotonic() - self._began),
            "device": str(self.device),
            "processes": self.processes.count,
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "versions": {
                "t2ilayers": t2ilayers.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
        }
        with written_whole(self.config.out / "run.json") as path:
            path.write_text(json.dumps(run, indent=2) + "\n")
        say(_table({**places, "run": self.config.out / "run.json"}))


# 80 columns with a run of five digits, hours left and three losses.
_BAR = "{percentage:3.0f}%|{bar:8}| {n_fmt}/{total_fmt}, {remaining} left, {rate_noinv_fmt}{postfix}"


def _table(rows: Mapping[str, object]) -> str:
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


def _check_name(folder: Path) -> None:
    try:
        str(folder).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"--out must be a path in UTF-8, got {str(folder)!r}") from error


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
