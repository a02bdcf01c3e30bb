"""A dataset by one word, as command lines and configurations name it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from .base import CaptionedDataset
from .folder import CaptionFolder
from .shapes import CaptionedShapes


def open_dataset(
    spec: str | os.PathLike[str],
    split: Literal["train", "test"] = "train",
    *,
    image_size: int = 64,
    seed: int = 0,
    class_field: str = "class_id",
    augment: bool = False,
) -> CaptionedDataset:
    """``CaptionedShapes`` for ``"shapes"``, else the ``CaptionFolder`` at that path.

    Args:
        spec: ``"shapes"``, or a folder (``"./shapes"`` for a folder of that name).
        split, image_size, seed: as of these classes.
        class_field, augment: as of ``CaptionFolder``; drawn shapes know their classes and need no more variety.

    Raises:
        NotADirectoryError: ``spec`` is neither.
        DatasetError: the folder has problems; ``CaptionFolder`` says which ones.

    Example:
        >>> len(open_dataset("shapes", "test", image_size=32))
        20000
    """
    if spec == "shapes":
        return CaptionedShapes(image_size=image_size, split=split, seed=seed)
    if not Path(spec).is_dir():
        raise NotADirectoryError(f'a dataset is "shapes" or an existing folder, got {os.fspath(spec)!r}')
    return CaptionFolder(
        spec, split=split, image_size=image_size, seed=seed, class_field=class_field, augment=augment
    )
