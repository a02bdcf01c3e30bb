"""A dataset by one word, as command lines and configurations name it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from .dataset import CaptionedDataset
from .drawn.shapes import CaptionedShapes
from .readers.coco import COCODataset
from .readers.cub import CUBDataset
from .readers.folder import CaptionFolder
from .readers.shards import CaptionShards


def open_dataset(
    spec: str | os.PathLike[str],
    split: Literal["train", "test"] = "train",
    *,
    image_size: int = 64,
    seed: int = 0,
    class_field: str = "class_id",
    augment: bool = False,
) -> CaptionedDataset:
    """The dataset that a word names: drawn, published, or a folder of one's own.

    ======================  ===================================================
    ``"shapes"``            ``CaptionedShapes``
    ``"cub:data/birds"``    ``CUBDataset``
    ``"coco:data/coco"``    ``COCODataset.from_folder``, which takes both layouts
    ``"shards:PATTERN"``    ``CaptionShards``, which says what a pattern is
    ``"path/to/folder"``    ``CaptionFolder`` (``"./shapes"`` for that name)
    ======================  ===================================================

    Args:
        spec: one of these.
        split, image_size, seed: as of these classes.
        augment: crop and mirror at random; drawn shapes need no more variety.
        class_field: as of ``CaptionFolder`` and ``CaptionShards``; the others know their classes.

    Raises:
        NotADirectoryError: there is no such folder.
        DatasetError: the folder has problems; the class says which ones.

    Example:
        >>> len(open_dataset("shapes", "test", image_size=32))
        20000
    """
    if spec == "shapes":
        return CaptionedShapes(image_size=image_size, split=split, seed=seed)
    kind, _, root = os.fspath(spec).partition(":")
    if root and kind == "cub":
        return CUBDataset(root, split, image_size=image_size, seed=seed, augment=augment)
    if root and kind == "coco":
        return COCODataset.from_folder(root, split, image_size=image_size, seed=seed, augment=augment)
    if root and kind == "shards":
        return CaptionShards(
            root, split, image_size=image_size, seed=seed, class_field=class_field, augment=augment
        )
    if not Path(spec).is_dir():
        raise NotADirectoryError(
            'a dataset is "shapes", "cub:ROOT", "coco:ROOT", "shards:PATTERN" or an existing folder, got '
            f"{os.fspath(spec)!r}"
        )
    return CaptionFolder(
        spec, split=split, image_size=image_size, seed=seed, class_field=class_field, augment=augment
    )
