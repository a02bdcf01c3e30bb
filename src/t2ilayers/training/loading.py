"""Batches of a run, loaded by other processes, which signals to the whole process group do not end."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from ..data import Batch, BatchDataset, CaptionedDataset
from .processes import Processes
from .signals import Interrupt, leave_signals_to_parent


@contextlib.contextmanager
def load_batches(
    data: CaptionedDataset, steps: range, *, batch_size: int, seed: int, workers: int, processes: Processes
) -> Iterator[Iterator[Batch]]:
    """This process's share of the batches of ``steps``, loaded by ``workers`` processes."""
    batches = BatchDataset(data, batch_size, seed=seed, rank=processes.rank, world_size=processes.count)
    loader = iter(
        DataLoader(
            batches,
            batch_size=None,
            sampler=steps,
            num_workers=workers,
            worker_init_fn=leave_signals_to_parent,
        )
    )
    # PyTorch's handler raises wherever training stands when a worker dies; the loader also asks at each batch.
    child = getattr(signal, "SIGCHLD", None)
    former = None if child is None else signal.signal(child, signal.SIG_DFL)
    try:
        yield loader
    finally:
        if child is not None:
            signal.signal(child, former)


def next_batch(
    loader: Iterator[Batch], interrupt: Interrupt, *, processes: Processes, device: torch.device
) -> Batch:
    """The next batch, on the device and joined over the processes. Where one cannot go on, all of them stop.

    Raises:
        KeyboardInterrupt: a signal asked for the end, here or in another process.
        OSError: a worker died or failed.
        Exception: what reading the data raised.
    """
    batch, failure = None, None
    if not interrupt.requested:
        try:
            batch = next(loader)
        except Exception as error:
            failure = error
    if processes.group is not None:
        stopping = torch.tensor(float(batch is None), device=device)
        dist.all_reduce(stopping, group=processes.group)
        if stopping > 0:
            batch = None
    if failure is not None:
        raise _without_traceback(failure)
    if batch is None:
        raise KeyboardInterrupt
    for name in ("image", "tokens", "class_ids"):  # lengths stay: packing wants them on the CPU
        batch[name] = batch[name].to(device, non_blocking=True)
    return processes.join(batch)


def _without_traceback(error: Exception) -> Exception:
    """The error of a worker in one line: the last one of PyTorch's message, which says why it failed."""
    if "DataLoader worker" not in str(error):
        return error
    return OSError(f"loading data failed: {str(error).strip().splitlines()[-1]}")
