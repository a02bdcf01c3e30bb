"""Pictures with captions that do not describe them, from the batch itself."""

from __future__ import annotations

import torch
from torch import Tensor

from ._arguments import check_ids


def mismatched_pairs(class_ids: Tensor, tokens: Tensor | None = None) -> tuple[Tensor, Tensor]:
    r"""For every image of a batch, a caption of the batch that does not describe it.

    Image ``i`` gets the first caption ``j = i + 1, i + 2, ... (mod N)`` with ``class_ids[j] != class_ids[i]``
    and, where tokens are given, ``tokens[j] != tokens[i]`` as rows. Images for which there is none are left
    out. Rolling the batch by one, as published code does, calls some matching pairs mismatched; this never
    does.

    Args:
        class_ids: ``(N,)`` integers, N >= 1; without classes use ``torch.arange(N)``.
        tokens: ``(N, T)`` integers, padded alike (rows are compared whole), on the device of ``class_ids``.

    Returns:
        ``(images, captions)``, int64 ``(M,)`` each, M <= N: pair ``m`` is the image ``images[m]`` (ascending)
        with the caption ``captions[m]``. M depends on the values, so on a GPU this waits for the device once;
        class ids and tokens still on the CPU spare that.

    Raises:
        ValueError: ``class_ids`` is not ``(N,)`` with N >= 1, or ``tokens`` is not ``(N, T)``.
        TypeError: ``class_ids`` or ``tokens`` are not integers.

    Source: the mismatched pairs of Reed et al., arXiv 1605.05396, section 4.2 (GAN-CLS), restricted to
    other classes.

    Example:
        >>> import torch
        >>> from t2ilayers.losses import mismatched_pairs
        >>> mismatched_pairs(torch.tensor([7, 7, 3]))
        (tensor([0, 1, 2]), tensor([2, 2, 0]))
        >>> mismatched_pairs(torch.tensor([7, 7, 7]))
        (tensor([], dtype=torch.int64), tensor([], dtype=torch.int64))
    """
    if class_ids.ndim != 1 or class_ids.numel() == 0:
        raise ValueError(f"class_ids must be (N,) with N >= 1, got shape {tuple(class_ids.shape)}.")
    check_ids("class_ids", class_ids)
    n = class_ids.shape[0]
    admissible = class_ids[:, None] != class_ids  # (N, N): image, caption
    if tokens is not None:
        if tokens.ndim != 2 or tokens.shape[0] != n:
            raise ValueError(
                f"tokens must be (N, T) with the N = {n} of class_ids, got shape {tuple(tokens.shape)}."
            )
        check_ids("tokens", tokens)
        admissible &= (tokens[:, None] != tokens).any(dim=-1)
    image = torch.arange(n, device=class_ids.device)
    # Column k looks at caption i + k; column 0 is the image's own caption, which is never admissible.
    in_order = admissible.gather(1, (image[:, None] + image) % n)
    offset = in_order.int().argmax(dim=1)  # the first True, by argmax's rule for ties
    found = in_order.any(dim=1)
    return image[found], ((image + offset) % n)[found]
