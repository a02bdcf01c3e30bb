"""A judge for drawn shapes: do pictures show what their captions name, and where is the foreground?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..data import ATTRIBUTES, CaptionedShapes, SceneAttributes, named_attributes
from ._finite import check_finite

ATTRIBUTE_CHANCE: dict[str, float] = {name: 1 / len(values) for name, values in ATTRIBUTES.items()}
"""Accuracy of a guess, for each attribute."""

_FIRST_SIDE = 32  # px; all there is to read can be seen at this side, and more costs more
_LAST_SIDE = 4  # px; places are read from a map of this side
_GROUPS = 4
_LEARNING_RATE = 4e-3
_PICTURES_AT_ONCE = 256


class AttributeLogits(NamedTuple):
    """What the classifier returns.

    Attributes:
        attributes: for each name of ``ATTRIBUTES``, logits ``(N, number of values)``.
        foreground: logits ``(N, 1, S, S)``, positive on the objects.

    Example:
        >>> logits = AttributeClassifier(32)(torch.zeros(2, 3, 32, 32))
        >>> logits.attributes["colour"].shape, logits.foreground.shape
        (torch.Size([2, 8]), torch.Size([2, 1, 32, 32]))
    """

    attributes: dict[str, Tensor]
    foreground: Tensor


_SCENES = 1_000_003  # added to the seed of the scenes that the classifier learns from


class AttributeClassifier(nn.Module):
    r"""Reads the attributes of a drawn scene's main object and background, and its foreground.

    Strided 3x3 convolutions with group norms bring the picture to 4x4 px; a linear head over all places reads
    each attribute. On the way back up, features of the same side are added and a sub-pixel convolution gives
    the foreground. A stage whose output is ``r`` px wide has ``512 / r`` channels, so each costs the same.
    Pictures of more than 32 px are brought to 32 px by averaging, and their foreground back bilinearly.

    A fresh one knows nothing: :func:`train_attribute_classifier` makes one that does.

    Args:
        image_size: S, a power of two from 16.

    Shapes:
        ``images (N, 3, S, S)`` in [-1, 1] to :class:`AttributeLogits`.

    Raises:
        ValueError: a size that is no power of two, or pictures of another size; pictures to be judged that are
            not finite.

    Example:
        >>> classifier = AttributeClassifier(16)
        >>> classifier.predict(torch.zeros(3, 3, 16, 16))["colour"].shape
        torch.Size([3])
    """

    def __init__(self, image_size: int) -> None:
        super().__init__()
        if image_size < 16 or image_size & (image_size - 1):
            raise ValueError(f"image_size must be a power of two from 16, got {image_size}")
        self.image_size = image_size
        sides = [min(image_size, _FIRST_SIDE)]
        while sides[-1] > _LAST_SIDE:
            sides.append(sides[-1] // 2)
        widths = [512 // side for side in sides]
        self.from_image = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            nn.Sequential(
                nn.LeakyReLU(0.2),
                nn.Conv2d(c_in, c_out, 3, stride=2, padding=1),
                nn.GroupNorm(_GROUPS, c_out),
            )
            for c_in, c_out in pairwise(widths)
        )
        self.heads = nn.ModuleDict(
            {name: nn.Linear(widths[-1] * _LAST_SIDE**2, len(values)) for name, values in ATTRIBUTES.items()}
        )
        self.up = nn.ModuleList(
            nn.Sequential(nn.LeakyReLU(0.2), nn.Conv2d(c_in, 4 * c_out, 1), nn.PixelShuffle(2))
            for c_in, c_out in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.to_foreground = nn.Sequential(nn.LeakyReLU(0.2), nn.Conv2d(widths[0], 1, 3, padding=1))

    def forward(self, images: Tensor) -> AttributeLogits:
        if images.dim() != 4 or images.shape[1:] != (3, self.image_size, self.image_size):
            raise ValueError(
                f"images must be (N, 3, {self.image_size}, {self.image_size}), got {tuple(images.shape)}"
            )
        side = min(self.image_size, _FIRST_SIDE)
        maps = [self.from_image(F.adaptive_avg_pool2d(images, side))]
        for block in self.down:
            maps.append(block(maps[-1]))
        x = maps.pop()  # (N, C, 4, 4)
        flat = F.leaky_relu(x, 0.2).flatten(1)
        attributes = {name: head(flat) for name, head in self.heads.items()}
        for block in self.up:
            x = block(x) + maps.pop()
        foreground = F.interpolate(self.to_foreground(x), size=images.shape[-2:], mode="bilinear")
        return AttributeLogits(attributes, foreground)

    @torch.no_grad()
    def predict(self, images: Tensor) -> dict[str, Tensor]:
        """For each attribute the index of the likeliest value in ``ATTRIBUTES``, ``(N,)`` int64 on the CPU."""
        logits = [self(part).attributes for part in self._parts(images)]
        return {name: torch.cat([part[name].argmax(1).cpu() for part in logits]) for name in ATTRIBUTES}

    @torch.no_grad()
    def foreground(self, images: Tensor) -> Tensor:
        """Which pixels belong to an object: ``(N, 1, S, S)`` bool on the CPU.

        Example:
            >>> AttributeClassifier(16).foreground(torch.zeros(3, 3, 16, 16)).shape
            torch.Size([3, 1, 16, 16])
        """
        return torch.cat([(self(part).foreground > 0).cpu() for part in self._parts(images)])

    def _parts(self, images: Tensor) -> Iterable[Tensor]:
        check_finite("images", images)
        device = self.from_image.weight.device
        return (part.to(device) for part in torch.split(images, _PICTURES_AT_ONCE))

    def extra_repr(self) -> str:
        return f"image_size={self.image_size}"


def train_attribute_classifier(
    image_size: int, *, seed: int = 0, steps: int = 800, batch_size: int = 64
) -> AttributeClassifier:
    """A classifier trained on real pictures of one object, each of them seen once.

    Adam with one cycle of its learning rate; the loss is the sum of the attributes' cross-entropies and the
    foreground's binary cross-entropy with the true mask. The global random state is left as it was.

    Args:
        image_size: see :class:`AttributeClassifier`.
        seed: of the pictures and of the first weights.
        steps: >= 1.
        batch_size: pictures a step, >= 1.

    Returns:
        The classifier, on the CPU and in evaluation mode.

    Raises:
        ValueError: a number outside its range.

    Source: the learning rate's cycle, Smith and Topin, arXiv 1708.07120.

    Example:
        >>> train_attribute_classifier(16, steps=2, batch_size=4).training
        False
    """
    if steps < 1 or batch_size < 1:
        raise ValueError(f"steps and batch_size must be at least 1, got {steps} and {batch_size}")
    with torch.device("cpu"):  # whatever the default device is
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            classifier = AttributeClassifier(image_size)
        # Scenes of their own: those of `seed` itself may be what the classifier is to judge.
        shapes = CaptionedShapes(steps * batch_size, image_size, seed=seed + _SCENES, max_objects=1)
        optimizer = torch.optim.Adam(classifier.parameters(), lr=_LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=steps + 1)
        for step in range(steps):
            indices = range(step * batch_size, (step + 1) * batch_size)
            images = torch.stack([shapes.image(index) for index in indices])
            masks = torch.stack([shapes.mask(index) for index in indices])
            truth = _truth([shapes.attributes(index) for index in indices])
            logits = classifier(images)
            loss = F.binary_cross_entropy_with_logits(logits.foreground, masks)
            for name, target in truth.items():
                loss = loss + F.cross_entropy(logits.attributes[name], target)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
    return classifier.eval()


def attribute_accuracy(
    classifier: AttributeClassifier, images: Tensor, captions: Sequence[str]
) -> dict[str, float]:
    r"""For each attribute, the share of pictures that show what their caption names of it.

    .. math:: \mathrm{acc}_a = \frac{\sum_i [a \in c_i]\,[\hat a(I_i) = a(c_i)]}{\sum_i [a \in c_i]}

    Only captions that name the attribute count, by :func:`~t2ilayers.data.named_attributes`; an attribute
    that none names is left out.

    Args:
        classifier: of pictures of this size.
        images: ``(N, 3, S, S)`` in [-1, 1].
        captions: N captions of drawn scenes.

    Returns:
        Accuracies in [0, 1], in the order of ``ATTRIBUTES``. ``ATTRIBUTE_CHANCE`` is what a guess scores.

    Raises:
        ValueError: another number of captions than pictures, or pictures of another size or not finite.

    Example:
        >>> shapes = CaptionedShapes(4, 16)
        >>> images = torch.stack([shapes.image(index) for index in range(4)])
        >>> list(
        ...     attribute_accuracy(
        ...         AttributeClassifier(16),
        ...         images,
        ...         ["a red star", "red", "blue", "ring"],
        ...     )
        ... )
        ['colour', 'shape']
    """
    if len(captions) != len(images):
        raise ValueError(f"captions must be one per picture, {len(images)}, got {len(captions)}")
    predicted = classifier.predict(images)
    right: dict[str, list[bool]] = {name: [] for name in ATTRIBUTES}
    for index, caption in enumerate(captions):
        for name, value in named_attributes(caption).items():
            right[name].append(ATTRIBUTES[name][int(predicted[name][index])] == value)
    return {name: sum(hits) / len(hits) for name, hits in right.items() if hits}


def _truth(scenes: Sequence[SceneAttributes]) -> dict[str, Tensor]:
    """The indices ``(N,)`` of what the scenes show."""
    rows = [
        {**vars(scene.objects[0]), "background": scene.background, "texture": scene.texture} for scene in scenes
    ]
    return {name: torch.tensor([values.index(row[name]) for row in rows]) for name, values in ATTRIBUTES.items()}
