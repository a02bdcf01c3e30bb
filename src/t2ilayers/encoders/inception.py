"""The Inception-v3 trunk of the DAMSM image encoder and of the Fréchet distance, laid out as tables.

Every stage is a table of branches whose outputs are concatenated; a branch is a chain of steps, and a
step is a pooling or a convolution. The names in the tables are the keys of the published checkpoints.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["InceptionV3Trunk"]


class _Conv(NamedTuple):
    """Convolution -> batch norm -> ReLU. Without ``padding``: "same" at stride 1, none at stride 2."""

    name: str
    width: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: tuple[int, int] | None = None


class _Pool(NamedTuple):
    """3x3 pooling; an average counts the zeros of its padding or leaves them out."""

    kind: Literal["average", "max"]
    stride: int = 1
    padding: int = 1
    count_padding: bool = True


_Fork: TypeAlias = tuple[_Conv, ...]  # convolutions of the same input, concatenated
_Step: TypeAlias = _Conv | _Pool | _Fork
_Branch: TypeAlias = tuple[_Step, ...]
_Stage: TypeAlias = tuple[_Branch, ...]

_DOWN = _Pool("max", stride=2, padding=0)


def _grid35(pool: _Pool, pool_width: int) -> _Stage:
    return (
        (_Conv("branch1x1", 64),),
        (_Conv("branch5x5_1", 48), _Conv("branch5x5_2", 64, (5, 5))),
        (
            _Conv("branch3x3dbl_1", 64),
            _Conv("branch3x3dbl_2", 96, (3, 3)),
            _Conv("branch3x3dbl_3", 96, (3, 3)),
        ),
        (pool, _Conv("branch_pool", pool_width)),
    )


def _grid17(pool: _Pool, width: int) -> _Stage:
    return (
        (_Conv("branch1x1", 192),),
        (
            _Conv("branch7x7_1", width),
            _Conv("branch7x7_2", width, (1, 7)),
            _Conv("branch7x7_3", 192, (7, 1)),
        ),
        (
            _Conv("branch7x7dbl_1", width),
            _Conv("branch7x7dbl_2", width, (7, 1)),
            _Conv("branch7x7dbl_3", width, (1, 7)),
            _Conv("branch7x7dbl_4", width, (7, 1)),
            _Conv("branch7x7dbl_5", 192, (1, 7)),
        ),
        (pool, _Conv("branch_pool", 192)),
    )


def _grid8(pool: _Pool) -> _Stage:
    return (
        (_Conv("branch1x1", 320),),
        (
            _Conv("branch3x3_1", 384),
            (_Conv("branch3x3_2a", 384, (1, 3)), _Conv("branch3x3_2b", 384, (3, 1))),
        ),
        (
            _Conv("branch3x3dbl_1", 448),
            _Conv("branch3x3dbl_2", 384, (3, 3)),
            (_Conv("branch3x3dbl_3a", 384, (1, 3)), _Conv("branch3x3dbl_3b", 384, (3, 1))),
        ),
        (pool, _Conv("branch_pool", 192)),
    )


_STEM: tuple[_Step, ...] = (
    _Conv("Conv2d_1a_3x3", 32, (3, 3), stride=2),
    _Conv("Conv2d_2a_3x3", 32, (3, 3), padding=(0, 0)),
    _Conv("Conv2d_2b_3x3", 64, (3, 3)),
    _DOWN,
    _Conv("Conv2d_3b_1x1", 80),
    _Conv("Conv2d_4a_3x3", 192, (3, 3), padding=(0, 0)),
    _DOWN,
)


def _mixed(pool: _Pool, last_pool: _Pool) -> dict[str, _Stage]:
    """The stages after the stem, with the pooling of their last branches."""
    return {
        "Mixed_5b": _grid35(pool, 32),
        "Mixed_5c": _grid35(pool, 64),
        "Mixed_5d": _grid35(pool, 64),
        "Mixed_6a": (
            (_Conv("branch3x3", 384, (3, 3), stride=2),),
            (
                _Conv("branch3x3dbl_1", 64),
                _Conv("branch3x3dbl_2", 96, (3, 3)),
                _Conv("branch3x3dbl_3", 96, (3, 3), stride=2),
            ),
            (_DOWN,),
        ),
        "Mixed_6b": _grid17(pool, 128),
        "Mixed_6c": _grid17(pool, 160),
        "Mixed_6d": _grid17(pool, 160),
        "Mixed_6e": _grid17(pool, 192),
        "Mixed_7a": (
            (_Conv("branch3x3_1", 192), _Conv("branch3x3_2", 320, (3, 3), stride=2)),
            (
                _Conv("branch7x7x3_1", 192),
                _Conv("branch7x7x3_2", 192, (1, 7)),
                _Conv("branch7x7x3_3", 192, (7, 1)),
                _Conv("branch7x7x3_4", 192, (3, 3), stride=2),
            ),
            (_DOWN,),
        ),
        "Mixed_7b": _grid8(pool),
        "Mixed_7c": _grid8(last_pool),
    }


# TensorFlow leaves padding out of averages, and its network of 2015 ends on a maximum.
_MIXED: Mapping[str, Mapping[str, _Stage]] = {
    "torchvision": _mixed(_Pool("average"), _Pool("average")),
    "tensorflow": _mixed(_Pool("average", count_padding=False), _Pool("max")),
}


class _ConvNormReLU(nn.Module):
    def __init__(self, in_channels: int, spec: _Conv) -> None:
        super().__init__()
        same = (spec.kernel[0] // 2, spec.kernel[1] // 2) if spec.stride == 1 else (0, 0)
        padding = same if spec.padding is None else spec.padding
        self.conv = nn.Conv2d(in_channels, spec.width, spec.kernel, spec.stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(spec.width, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


def _pool(x: Tensor, pool: _Pool) -> Tensor:
    if pool.kind == "average":
        return F.avg_pool2d(x, 3, pool.stride, pool.padding, count_include_pad=pool.count_padding)
    return F.max_pool2d(x, 3, pool.stride, pool.padding)


def _add_step(owner: nn.Module, step: _Step, channels: int) -> int:
    """Registers the convolutions of ``step`` on ``owner`` by their names; returns the step's width."""
    if isinstance(step, _Pool):
        return channels
    convs = (step,) if isinstance(step, _Conv) else step
    for conv in convs:
        owner.add_module(conv.name, _ConvNormReLU(channels, conv))
    return sum(conv.width for conv in convs)


def _run_step(owner: nn.Module, step: _Step, x: Tensor) -> Tensor:
    if isinstance(step, _Pool):
        return _pool(x, step)
    if isinstance(step, _Conv):
        y: Tensor = owner.get_submodule(step.name)(x)
        return y
    return torch.cat([_run_step(owner, conv, x) for conv in step], dim=1)


class _Mixed(nn.Module):
    """The branches of one stage, side by side."""

    def __init__(self, in_channels: int, stage: _Stage) -> None:
        super().__init__()
        self._stage = stage
        self.out_channels = 0
        for branch in stage:
            width = in_channels
            for step in branch:
                width = _add_step(self, step, width)
            self.out_channels += width

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for branch in self._stage:
            y = x
            for step in branch:
                y = _run_step(self, step, y)
            outputs.append(y)
        return torch.cat(outputs, dim=1)


class InceptionV3Trunk(nn.Module):
    r"""Inception-v3 up to its global average, with the features after ``Mixed_6e`` on the way.

    ``(mixed_6e, pooled) = trunk(images)``; the classifier and the auxiliary head are absent. State-dict keys
    are those of the published DAMSM image encoders (``Conv2d_1a_3x3.conv.weight`` to
    ``Mixed_7c.branch_pool.bn.num_batches_tracked``), and batch norms have ``eps = 1e-3``.

    A fresh trunk draws its convolutions from ``normal(0, sqrt(2 / fan_in))``: it is meant to be run with its
    batch norms in evaluation mode, where nothing else would keep the size of the features from layer to
    layer.

    Args:
        pooling: how the last branch of a stage pools. ``"torchvision"``: averages that count the zeros of their
            padding, as the DAMSM encoders do. ``"tensorflow"``: averages that leave padding out, and a maximum
            in ``Mixed_7c``, as in the network of 2015 that the Fréchet inception distance is defined by. The
            state dict is the same.

    Shapes:
        images ``(N, 3, 299, 299)``, values in ``[-1, 1]`` for the published weights; other sides from 75 px
        work and change the first output's grid. ``mixed_6e``: ``(N, 768, 17, 17)``, ``pooled``:
        ``(N, 2048)``.

    Raises:
        ValueError: an unknown ``pooling``, or ``images`` is not ``(N, 3, H, W)`` with ``H, W >= 75``.
        TypeError: ``images`` is not of a floating dtype.

    Source: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision", arXiv 1512.00567,
    table 1.

    Example:
        >>> import torch
        >>> from t2ilayers.encoders.inception import InceptionV3Trunk
        >>> trunk = InceptionV3Trunk().eval()
        >>> with torch.no_grad():
        ...     mixed_6e, pooled = trunk(torch.zeros(1, 3, 299, 299))
        >>> mixed_6e.shape, pooled.shape
        (torch.Size([1, 768, 17, 17]), torch.Size([1, 2048]))
    """

    def __init__(self, pooling: Literal["torchvision", "tensorflow"] = "torchvision") -> None:
        super().__init__()
        if pooling not in _MIXED:
            raise ValueError(f"pooling must be one of {', '.join(_MIXED)}, got {pooling!r}")
        self.pooling = pooling
        channels = 3
        for step in _STEM:
            channels = _add_step(self, step, channels)
        for name, stage in _MIXED[pooling].items():
            mixed = _Mixed(channels, stage)
            self.add_module(name, mixed)
            channels = mixed.out_channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if images.ndim != 4 or images.shape[1] != 3 or min(images.shape[2:]) < 75:
            raise ValueError(
                f"images must be (N, 3, H, W) with H and W at least 75, got {tuple(images.shape)}; "
                "resize them to 299 x 299"
            )
        if not images.is_floating_point():
            raise TypeError(
                f"images must be of a floating dtype, got {images.dtype}; for bytes use images / 127.5 - 1"
            )
        x = images
        for step in _STEM:
            x = _run_step(self, step, x)
        mixed_6e = x
        for name in _MIXED[self.pooling]:
            x = self.get_submodule(name)(x)
            if name == "Mixed_6e":
                mixed_6e = x
        return mixed_6e, x.mean(dim=(2, 3))
