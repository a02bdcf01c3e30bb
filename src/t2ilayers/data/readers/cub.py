"""Caltech-UCSD Birds 200-2011 with ten captions each, in the layout of the AttnGAN family."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ..._files import shown
from ...vocabulary import Vocabulary
from ...words import Rule, Tokenizer
from ..listed import ListedDataset
from ..pictures import Box
from .attngan import list_family
from .listing import FilePicture, Listing
from .names import Tree
from .published import check_request
from .rows import MAX_BYTES, read_text


class CUBDataset(ListedDataset):
    """The birds: every picture cut about its bounding box, with the first ten captions of its text file.

    ``root`` has ``CUB_200_2011/{images/, images.txt, bounding_boxes.txt}`` (or these themselves) and beside it
    what ``t2ilayers.data.readers.attngan`` describes: ``{train,test}/filenames.pickle`` and ``class_info.pickle``,
    ``text/``, and ``captions.pickle`` or ``captions_DAMSM.pickle``. ``key`` is the name without extension,
    such as ``"001.Black_footed_Albatross/Black_Footed_Albatross_0046_18"``.

    A picture is cut to the square of half-side ``int(0.75 * max(w, h))`` about the centre of its box, as far as
    the picture goes; then its short side is resized to ``int(S * 76 / 64)``. With ``augment`` a random square of
    S is taken from that and mirrored half of the time, without it the central one.

    All files must be there, but pictures are decoded only when they are asked for; ``python -m
    t2ilayers.data.validate cub:ROOT`` decodes all of them.

    Args:
        root: the folder, ``birds`` in the family.
        split: ``"train"`` or ``"test"``.
        image_size: side S, at least 16.
        captions_per_image: how many captions of each picture are used; the caption pickle has as many. None is
            ten, and where there is no pickle as many up to ten as a picture has.
        seed: of the randomness of ``dataset[index]``.
        augment: crop and mirror at random, as published for training. Mirrored pictures contradict captions
            that say left or right.
        vocabulary: None takes the caption pickle's words in their order, or without a pickle those of the text
            of both splits, alphabetically. A published text encoder needs the pickle it was trained with.
        tokenizer: how captions are split into words where neither vocabulary nor pickle says; see ``Vocabulary``.
        max_words: longest sequence of tokens.

    Raises:
        DatasetError: all that is wrong, by file: pickles that are damaged or ask for more than plain data,
            missing pictures, names that lead outside, fewer captions, text and pickle that disagree, a word that
            ``vocabulary`` lacks.
        NotADirectoryError: ``root`` is no folder.
        ValueError: an argument outside its range.

    Source: AttnGAN, ``code/datasets.py``.

    Example:
        >>> CUBDataset(".", image_size=64)
        Traceback (most recent call last):
            ...
        t2ilayers.data.readers.listing.DatasetError: . has 1 problem: train/filenames.pickle: cannot be
        read (No such file or directory)
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: Literal["train", "test"] = "train",
        *,
        image_size: int,
        captions_per_image: int | None = None,
        seed: int = 0,
        augment: bool = False,
        vocabulary: Vocabulary | None = None,
        tokenizer: Rule | Tokenizer = "words",
        max_words: int = 18,
    ) -> None:
        listing = list_cub(root, split, captions_per_image, vocabulary, tokenizer)
        super().__init__(
            listing, image_size=image_size, seed=seed, augment=augment, max_words=max_words, as_published=True
        )


def list_cub(
    root: str | os.PathLike[str],
    split: str,
    captions_per_image: int | None = None,
    vocabulary: Vocabulary | None = None,
    tokenizer: Rule | Tokenizer = "words",
) -> Listing:
    """What a split of the birds says of itself; arguments and errors as of ``CUBDataset``, problems returned.

    Example:
        >>> list_cub(".", "test").problems
        ['test/filenames.pickle: cannot be read (No such file or directory)']
    """
    root = check_request(root, split, captions_per_image)
    birds = root / "CUB_200_2011" if (root / "CUB_200_2011").is_dir() else root
    folders = [birds / "images"]
    listing = list_family(root, split, captions_per_image, 10, lambda _: folders, vocabulary, tokenizer)
    if not listing.pictures:
        return listing
    problems: list[str] = []
    boxes = _read_boxes(birds, problems)
    if not problems:
        names = (picture.key for picture in listing.pictures)
        problems = [f"{shown(name)}: it has no bounding box" for name in names if name not in boxes]
    pictures = [
        replace(picture, box=boxes.get(picture.key))
        for picture in listing.pictures
        if isinstance(picture, FilePicture)
    ]
    return replace(listing, problems=listing.problems + problems, pictures=pictures)


def _read_boxes(folder: Path, problems: list[str]) -> dict[str, Box]:
    """Left, top, width and height by name: ``images.txt`` has a name per number, the other a box per number."""
    tree = Tree(folder)
    names = {row[0]: row[1] for row in _rows(tree, "images.txt", 2, problems)}
    boxes = {}
    for number, *sides in _rows(tree, "bounding_boxes.txt", 5, problems):
        try:
            left, top, width, height = (int(float(side)) for side in sides)
        except (ValueError, OverflowError):
            width = height = 0
        if width < 1 or height < 1:
            problems.append(f"{folder / 'bounding_boxes.txt'}: picture {number:.80} has the box {shown(sides)}")
        elif number in names:
            boxes[names[number].removesuffix(".jpg")] = (left, top, width, height)
    return boxes


def _rows(tree: Tree, name: str, width: int, problems: list[str]) -> list[list[str]]:
    path = tree.root / name
    if problem := tree.problem(path):
        problems.append(f"{path}: {problem}")
        return []
    before = len(problems)
    rows = [line.split() for line in read_text(path, str(path), MAX_BYTES, problems).splitlines()]
    problems += [
        f"{path} line {n}: a row must have {width} values" for n, row in enumerate(rows, 1) if len(row) != width
    ]
    return [] if len(problems) > before else rows
