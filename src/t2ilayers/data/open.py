"""A dataset by one word, as command lines and configurations name it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import parse_qsl

from .._files import shown
from ..words import Rule
from .dataset import CaptionedDataset
from .drawn.shapes import CaptionedShapes
from .readers.coco import COCODataset, list_coco
from .readers.cub import CUBDataset, list_cub
from .readers.folder import CaptionFolder, list_folder
from .readers.listing import Listing
from .readers.names import is_folder
from .readers.shards import CaptionShards, list_shards

_OPTIONS = {
    "cub": ("captions_per_image", "max_words", "tokenizer"),
    "coco": ("captions_per_image", "max_words", "tokenizer"),
    "shards": ("max_words", "one_caption", "tokenizer"),
    "folder": ("max_words", "one_caption", "tokenizer"),
}


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

    Options of these classes may follow a question mark: ``"coco:data/coco?captions_per_image=1"``,
    ``"my_pictures?tokenizer=characters&max_words=60"``.

    ======================  ===================================================
    ``captions_per_image``  of ``cub`` and ``coco``: a number
    ``max_words``           of all but ``shapes``: a number
    ``one_caption``         of folders and shards: ``true`` or ``false``
    ``tokenizer``           of all but ``shapes``: ``words``, ``characters`` or ``ascii``
    ======================  ===================================================

    Args:
        spec: one of these.
        split, image_size, seed: as of these classes.
        augment: crop and mirror at random; drawn shapes are varied enough.
        class_field: as of ``CaptionFolder`` and ``CaptionShards``; the others know their classes.

    Raises:
        NotADirectoryError: there is no such folder.
        DatasetError: the folder has problems; the class says which ones.
        ValueError: an option that the class does not have, or a value that it does not take.

    Example:
        >>> len(open_dataset("shapes", "test", image_size=32))
        20000
    """
    if spec == "shapes":
        return CaptionedShapes(image_size=image_size, split=split, seed=seed)
    kind, root, options = read_spec(spec)
    options |= {"image_size": image_size, "seed": seed, "augment": augment}
    if kind == "cub":
        return CUBDataset(root, split, **options)
    if kind == "coco":
        return COCODataset.from_folder(root, split, **options)
    if kind == "shards":
        return CaptionShards(root, split, class_field=class_field, **options)
    return CaptionFolder(root, split=split, class_field=class_field, **options)


def list_dataset(spec: str | os.PathLike[str], split: Literal["train", "test"]) -> tuple[Listing, dict[str, Any]]:
    """What a split says of itself, its problems included, and the options of its word; of all but ``"shapes"``.

    Raises:
        NotADirectoryError, ValueError: as ``open_dataset``.

    Example:
        >>> list_dataset("cub:.", "test")[0].problems
        ['test/filenames.pickle: cannot be read (No such file or directory)']
    """
    kind, root, options = read_spec(spec)
    given = {name: value for name, value in options.items() if name != "max_words"}
    listers: dict[str, Callable[..., Listing]] = {
        "cub": list_cub,
        "coco": list_coco,
        "shards": list_shards,
        "folder": list_folder,
    }
    return listers[kind](root, split, **given), options


def read_spec(spec: str | os.PathLike[str]) -> tuple[str, str, dict[str, Any]]:
    """Kind, place and options of a word; a path that is there is not taken apart.

    Raises:
        NotADirectoryError, ValueError: as ``open_dataset``.

    Example:
        >>> read_spec("coco:data/coco?captions_per_image=1")
        ('coco', 'data/coco', {'captions_per_image': 1})
    """
    text = os.fspath(spec)
    place, mark, query = text.rpartition("?")
    if not mark or not isinstance(spec, str) or is_folder(Path(text)):
        place, query = text, ""
    kind, _, root = place.partition(":")
    if not root or kind not in ("cub", "coco", "shards") or not isinstance(spec, str):
        kind, root = "folder", place
        if not is_folder(Path(root)):
            raise NotADirectoryError(
                'a dataset must be "shapes", "cub:ROOT", "coco:ROOT", "shards:PATTERN" or an existing folder, got '
                f"{shown(text, 300)}"
            )
    options: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in _OPTIONS[kind]:
            known = ", ".join(_OPTIONS[kind])
            raise ValueError(f"the options of {kind}: must be of {known}, got {shown(name)} in {shown(text, 300)}")
        options[name] = _value(name, value)
    return kind, root, options


def _value(name: str, value: str) -> int | bool | str:
    if name == "tokenizer" and value in get_args(Rule):
        return value
    if name == "one_caption" and value in ("true", "false"):
        return value == "true"
    if name in ("captions_per_image", "max_words") and value.isdecimal() and 0 < len(value) < 7 and int(value) > 0:
        return int(value)
    wanted = {"tokenizer": " or ".join(get_args(Rule)), "one_caption": "true or false"}.get(
        name, "a number from 1"
    )
    raise ValueError(f"{name} must be {wanted}, got {shown(value)}")
