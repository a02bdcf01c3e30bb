"""Several processes that train as one: what they exchange so that their number changes nothing."""

from __future__ import annotations

import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ..data import Batch
from ..layers._statistics import SharesStatistics
from ..ops.collectives import all_reduce_sum


def join_processes() -> tuple[Processes, torch.device]:
    """The processes that torchrun started, and the device of this one; without torchrun, this process alone.

    The device is the accelerator (with torchrun, that of this process's number on its machine) or else the CPU.
    Processes speak through NCCL on CUDA, gloo on the CPU, and whatever PyTorch has for other devices.

    Raises:
        ValueError: the machine has fewer accelerators than processes.

    Example:
        >>> processes, device = join_processes()
        >>> (
        ...     processes.count,
        ...     device
        ...     == (torch.accelerator.current_accelerator() or torch.device("cpu")),
        ... )
        (1, True)
    """
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return Processes(), device
    if device.type != "cpu":
        number, there = int(os.environ["LOCAL_RANK"]), torch.accelerator.device_count()
        if number >= there:
            raise ValueError(f"--nproc-per-node must be at most {there}, one process per device, got more")
        torch.accelerator.set_device_index(number)
        device = torch.device(device.type, number)
    if not dist.is_initialized():
        dist.init_process_group(dist.get_default_backend_for_device(device))
    return Processes(dist.group.WORLD), device


def synchronize_statistics(module: nn.Module, group: dist.ProcessGroup | None) -> None:
    """Let every layer of :mod:`t2ilayers.layers` in ``module`` that has batch statistics share them.

    Other batch norms are left alone; ``nn.SyncBatchNorm.convert_sync_batchnorm`` is for those, and converts
    these, too. Copies of the module share with the same processes. Pickling it is an error; save its state dict.

    Args:
        module: in training mode, all ranks must call it, forward and backward, equally often.
        group: the ranks; None takes each process's own batch again.

    Example:
        >>> from t2ilayers import SemanticAffineBN
        >>> norm = SemanticAffineBN(16, cond_dim=32)
        >>> synchronize_statistics(norm, None)
        >>> norm.process_group is None
        True
    """
    for part in module.modules():
        if isinstance(part, SharesStatistics):
            part.process_group = group


class Processes:
    r"""This process among those that share each batch; with ``group=None``, the only one.

    The rule that makes N processes one: **every process computes the same loss, that of the whole batch**, from
    what :meth:`gather` brings together, and gradients are averaged. The gradient of :meth:`gather` is its
    adjoint, the sum over processes; so with :math:`\theta_r` the weights of process r, all equal,

    .. math:: \frac1W \sum_r \nabla_{\theta_r} \sum_q L_q(\theta_0, \dots, \theta_{W-1}) = \nabla_\theta L(\theta)

    holds for any loss, a mean over samples or not, and for shards of any sizes.

    Pictures cost most, so each process has only its share of them. Captions are small: every process has and
    encodes those of the whole batch. Noise and dropout, too, are drawn for the whole batch, from generators that
    must be in the same state in all processes, and :meth:`own` takes this process's rows.

    Args:
        group: the processes, each with the same weights; usually ``torch.distributed.group.WORLD``.

    Example:
        >>> alone, x = Processes(), torch.ones(2, 3)
        >>> alone.gather(x) is x and alone.own(x) is x
        True
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group
        self.rank = 0 if group is None else dist.get_rank(group)
        self.count = 1 if group is None else dist.get_world_size(group)
        self._sizes: list[int] = []  # pictures of the batch at hand, by process

    def join(self, batch: Batch) -> Batch:
        """Begin a batch: this process's pictures, with ``tokens``, ``lengths`` and ``class_ids`` of all.

        Args:
            batch: any number of samples >= 1, which may differ between processes.

        Raises:
            ValueError: a process has no sample; raised in all of them, so that none waits.

        Example:
            >>> from t2ilayers.data import BatchDataset, CaptionedShapes
            >>> batch = BatchDataset(CaptionedShapes(8, image_size=32), 4, seed=0)[0]
            >>> Processes().join(batch) is batch
            True
        """
        if self.group is None:
            return batch
        tokens, device = batch["tokens"], batch["image"].device
        n, width = tokens.shape
        table = torch.zeros(self.count, 2, dtype=torch.int64, device=device)
        table[self.rank] = torch.tensor([n, width])
        dist.all_reduce(table, group=self.group)
        self._sizes, widths = table.T.tolist()
        if min(self._sizes) < 1:
            raise ValueError(f"every process needs a sample, got {self._sizes} of them; take a larger batch")
        columns = [batch["lengths"][:, None], batch["class_ids"][:, None], tokens]
        text = torch.cat([column.to(device) for column in columns], dim=1)
        text = self.gather(F.pad(text, (0, max(widths) - width)))
        joined = batch.copy()
        joined["lengths"] = text[:, 0].to(batch["lengths"].device)
        joined["class_ids"] = text[:, 1]
        joined["tokens"] = text[:, 2:]
        return joined

    def gather(self, x: Tensor) -> Tensor:
        """The rows of all processes, in their order; differentiable.

        Args:
            x: ``(n, ...)``, one row per picture of the joined batch. Half precision becomes float32.

        Raises:
            ValueError: another number of rows.

        Example: see the class.
        """
        if self.group is None:
            return x
        if len(x) != self._sizes[self.rank]:
            raise ValueError(f"x must have one row per picture, {self._sizes[self.rank]}, got {tuple(x.shape)}")
        before = sum(self._sizes[: self.rank])
        after = sum(self._sizes) - before - len(x)
        x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        # Rows of others are zeros, so the sum over processes holds every row once.
        return all_reduce_sum(F.pad(x, (0, 0) * (x.dim() - 1) + (before, after)), self.group)

    def own(self, x: Tensor) -> Tensor:
        """The rows of this process's pictures among those of all, the inverse of :meth:`gather`.

        Example: see the class.
        """
        if self.group is None:
            return x
        before = sum(self._sizes[: self.rank])
        return x[before : before + self._sizes[self.rank]]

    @torch.no_grad()
    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Mean of the gradients over processes. (A DDP wrapper does not survive the penalty's second backward.)

        Example:
            >>> Processes().average_gradients([])
        """
        if self.group is None:
            return
        grads = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([grad.flatten() for grad in grads])
        dist.all_reduce(flat, group=self.group)
        flat /= self.count
        for grad, mean in zip(grads, torch.split(flat, [grad.numel() for grad in grads]), strict=True):
            grad.copy_(mean.view_as(grad))
