"""How well the masks of a generator cover the foreground of what it drew."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ._finite import check_finite

_LEVEL = 1e-6  # a pixel this little above the mean is at the mean: interpolation rounds


def mask_iou(mask: Tensor, foreground: Tensor) -> Tensor:
    r"""Intersection over union of each binarised mask with the foreground.

    .. math:: b = [\mathrm{up}(m) > \overline{\mathrm{up}(m)}], \qquad
        \mathrm{IoU} = \frac{|b \wedge f|}{|b \vee f|}

    ``up`` is the generator's own, bilinear with ``align_corners=True``. A mask is compared with its own mean
    since its level is free: gamma and beta scale with it. Nothing of a constant mask is above its mean, so it
    scores 0. So does a picture without foreground.

    Args:
        mask: ``(N, 1, s, s)`` in [0, 1].
        foreground: ``(N, 1, S, S)``, bool.

    Returns:
        ``(N,)`` float32 in [0, 1].

    Raises:
        ValueError: shapes that do not fit, a mask that is not finite, or a foreground that is not bool.

    Source: this library's own; the masks are those of arXiv 2104.00567.

    Example:
        >>> foreground = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
        >>> foreground[..., :2] = True  # the left half
        >>> mask_iou(torch.tensor([[[[0.9, 0.6], [0.9, 0.6]]]]), foreground)
        tensor([1.])
    """
    return _iou(_binarise(mask, foreground), foreground)


def foreground_on_white(images: Tensor, threshold: float = 0.2) -> Tensor:
    r"""Where pictures drawn on white are not white: their foreground, as nearly as pixels tell.

    .. math:: f_{hw} = \big[\min_c I_{chw} < 1 - \mathrm{threshold}\big]

    An estimate, for pictures that have no alpha, such as generated ones. White parts of the thing itself are left
    out, shadows and smudges on the white are taken in.

    Args:
        images: ``(N, 3, H, W)`` in [-1, 1].
        threshold: in these units, 0 to 2; 0.2 is 25 of 255.

    Returns:
        ``(N, 1, H, W)``, bool.

    Raises:
        ValueError: another shape, pictures that are not finite, or a threshold outside its range.

    Source: this library's own.

    Example:
        >>> images = torch.ones(1, 3, 2, 2)
        >>> images[0, 2, 0, 0] = 0.0  # yellow
        >>> foreground_on_white(images)[0, 0]
        tensor([[ True, False],
                [False, False]])
    """
    if images.dim() != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be (N, 3, H, W), got {tuple(images.shape)}")
    if not 0 <= threshold <= 2:
        raise ValueError(f"threshold must be in [0, 2], got {threshold}")
    check_finite("images", images)
    return images.detach().amin(1, keepdim=True) < 1 - threshold


class StageIoU(NamedTuple):
    """Mean over the pictures for the mask of one block.

    Attributes:
        side: of the mask in px.
        iou: of the mask with the foreground.
        inverted_iou: of what the mask leaves out with the foreground.

    Example:
        >>> StageIoU(side=8, iou=0.2, inverted_iou=0.7).best
        0.7
    """

    side: int
    iou: float
    inverted_iou: float

    @property
    def best(self) -> float:
        """The better of the two polarities; which one a generator learns is arbitrary."""
        return max(self.iou, self.inverted_iou)


class StageIoUs(NamedTuple):
    """:class:`StageIoU` of each block, coarse to fine, beside that of a mask of ones everywhere.

    Example:
        >>> stages = (StageIoU(4, 0.3, 0.1), StageIoU(8, 0.2, 0.7))
        >>> StageIoUs(stages, constant=0.25).best
        StageIoU(side=8, iou=0.2, inverted_iou=0.7)
    """

    stages: tuple[StageIoU, ...]
    constant: float

    @property
    def best(self) -> StageIoU:
        """The stage that covers the foreground best, in either polarity."""
        return max(self.stages, key=lambda stage: stage.best)


def stage_ious(masks: Sequence[Tensor], foreground: Tensor) -> StageIoUs:
    """:func:`mask_iou` of each block's masks and of their complements, averaged over the pictures.

    Args:
        masks: of :class:`~t2ilayers.models.SSAGeneratorOutput`: each ``(N, 1, s, s)`` in [0, 1].
        foreground: ``(N, 1, S, S)``, bool.

    Returns:
        :class:`StageIoUs`; its ``constant`` is what a mask that selects everything scores, the share of the
        picture that is foreground. A stage that does not beat it has found nothing.

    Raises:
        ValueError: no masks, shapes that do not fit, masks that are not finite, or a foreground that is not bool.

    Source: see :func:`mask_iou`.

    Example:
        >>> foreground = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
        >>> foreground[..., :2] = True
        >>> stage_ious([torch.tensor([[[[0.1, 0.6], [0.1, 0.6]]]])], foreground)
        StageIoUs(stages=(StageIoU(side=2, iou=0.0, inverted_iou=1.0),), constant=0.5)
    """
    if not masks:
        raise ValueError("masks must have one entry per block, got none")
    stages = []
    for mask in masks:
        above = _binarise(mask, foreground)
        iou, inverted = (_iou(side, foreground).mean().item() for side in (above, ~above))
        stages.append(StageIoU(mask.shape[-1], iou, inverted))
    constant = _iou(torch.ones_like(foreground), foreground).mean().item()
    return StageIoUs(tuple(stages), constant)


def _binarise(mask: Tensor, foreground: Tensor) -> Tensor:
    if foreground.dim() != 4 or foreground.shape[1] != 1 or foreground.dtype != torch.bool:
        raise ValueError(
            f"foreground must be (N, 1, S, S) bool, got {tuple(foreground.shape)} {foreground.dtype}; "
            "compare logits with 0 or a mask with 0.5 first"
        )
    if mask.dim() != 4 or mask.shape[:2] != foreground.shape[:2]:
        raise ValueError(
            f"mask must be (N, 1, s, s) with one a foreground, N = {len(foreground)}, got {tuple(mask.shape)}"
        )
    check_finite("mask", mask)
    mask = mask.detach().float()
    mask = F.interpolate(mask, size=foreground.shape[-2:], mode="bilinear", align_corners=True)
    return mask > mask.mean((2, 3), keepdim=True) + _LEVEL


def _iou(selected: Tensor, foreground: Tensor) -> Tensor:
    shared = (selected & foreground).sum((1, 2, 3))
    union = (selected | foreground).sum((1, 2, 3))
    return shared / union.clamp(min=1)
