"""The command t2ilayers with an SSA-GAN whose masks are others, for ``benchmarks/comparison.py``.

    python benchmarks/masks.py one-mask train --data shapes ...

SSA-GAN predicts a mask in each block and uses it in both of the block's norms. Here it is asked whether that
matters. The command and what it writes are as they are; only a model that it makes or loads has the other masks.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from t2ilayers import MaskPredictor, SSAConv, SSAGenerator
from t2ilayers.cli.main import main
from t2ilayers.models import SSAGeneratorOutput, ssa_generator, ssagan


class OneMask(SSAGenerator):
    """The mask of the block that draws 16 px, there and, enlarged, in all finer blocks; coarser ones have none.

    An earlier block would not do: what enters the first has not seen the sentence, and 4 px are too few.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for i, block in enumerate(self.blocks):
            if i != 2:
                block.mask_predictor = None

    def forward(self, z: Tensor, cond: Tensor, masks: Sequence[Tensor | None] | None = None) -> SSAGeneratorOutput:
        x = self.fc(z).unflatten(1, (-1, 4, 4)).contiguous(memory_format=torch.channels_last)
        logits, used = None, []
        for i, block in enumerate(self.blocks):
            side = 4 << i
            if block.mask_predictor is not None:
                logits = block.mask_predictor(x)
            mask = None if logits is None else MaskPredictor.to_mask(logits, side // logits.shape[-1])
            x, _ = block(x, cond, mask)
            used.append(x.new_ones(len(x), 1, side, side) if mask is None else mask)
        return SSAGeneratorOutput(self.to_image(x).contiguous(), tuple(used))


class MaskPerAffine(SSAConv):
    """The second norm has a mask of its own, predicted from what the first convolution makes of the first norm.

    Both are always predicted: a mask that is given is not taken. The second is returned.
    """

    def __init__(self, in_channels: int, out_channels: int, cond_dim: int = 256, **options: Any) -> None:
        super().__init__(in_channels, out_channels, cond_dim, **options)
        self.second_predictor = MaskPredictor(out_channels, options["mask_channels"])

    def forward(
        self, x: Tensor, cond: Tensor, mask: Tensor | None = None, *, affine: Any = None
    ) -> tuple[Tensor, Tensor | None]:
        s = 2 if self.upsample else 1
        mask = MaskPredictor.to_mask(self.mask_predictor(x), s)
        residual = self.conv1(self.norm1(x, cond, mask, upsample=s))
        second = MaskPredictor.to_mask(self.second_predictor(residual))
        residual = self.conv2(self.norm2(residual, cond, second))
        shortcut = self.shortcut(x)
        if self.upsample:
            shortcut = torch.nn.functional.interpolate(shortcut, scale_factor=2)
        return shortcut + self.gamma * residual, second


def use(variant: str) -> None:
    """Let every SSA-GAN that is made from now on have these masks."""
    ssagan.SSAGenerator = OneMask if variant == "one-mask" else SSAGenerator  # type: ignore[misc]
    ssa_generator.SSAConv = MaskPerAffine if variant == "mask-per-affine" else SSAConv  # type: ignore[misc]


if __name__ == "__main__":
    use(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
