"""What processes that share a batch exchange, differentiable to any order."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


class _AllReduceSum(torch.autograd.Function):
    """Sum over ranks; its gradient is the sum of the ranks' gradients, and so on to any order."""

    @staticmethod
    def forward(ctx, value: Tensor, group: dist.ProcessGroup) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.group = group
        value = value.contiguous().clone()
        dist.all_reduce(value, group=group)
        return value

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        return all_reduce_sum(grad, ctx.group), None


def all_reduce_sum(value: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The sum of ``value``, of any one shape ``(N, ...)``, over the ranks; differentiable to any order."""
    total: Tensor = _AllReduceSum.apply(value, group)  # type: ignore[no-untyped-call]
    return total


def merge_over_ranks(
    count: int, mean: Tensor, m2: Tensor, group: dist.ProcessGroup
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean ``(C,)``, biased variance ``(C,)`` and count ``()`` over all ranks, in one collective per direction.

    Args:
        count: values behind each of this rank's statistics, may be 0.
        mean: of this rank, ``(C,)``.
        m2: sums of this rank's squared deviations from its mean, ``(C,)``.
        group: the ranks.

    Each rank puts its own into its row of a zero table; the sum over ranks is then every rank's table, which
    Chan's formula merges without the cancellation of E[x²] - E[x]².
    """
    c = len(mean)
    # Filled where the statistics lie: a number that is copied from the host would wait for the device.
    row = torch.cat([mean.new_full((1,), count), mean, m2])  # (1 + 2C,)
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    table = all_reduce_sum(F.pad(row[None], (0, 0, rank, world - 1 - rank)), group)  # (world, 1 + 2C)
    counts, means, m2s = table[:, :1], table[:, 1 : 1 + c], table[:, 1 + c :]
    total = counts.sum()
    divisor = total.clamp(min=1)
    mean = (counts * means).sum(0) / divisor
    var = (m2s + counts * (means - mean).square()).sum(0) / divisor
    return mean, var, total
