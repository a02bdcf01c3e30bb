"""COCO captions: from COCO's own annotations, or in the layout of the AttnGAN family."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Literal

import numpy as np
from typing_extensions import Self

from ..._files import read_regular, shown, some
from ...vocabulary import END, Vocabulary
from ...words import Rule, Tokenizer
from ..listed import ListedDataset
from .attngan import list_family
from .listing import FilePicture, LeftOut, Listing, unknown_words, vocabulary_of
from .names import Tree, name_problem
from .published import check_request, choose_captions, find_picture, note_unlisted
from .rows import MAX_BYTES

_USUAL = 5  # captions of a picture


class COCODataset(ListedDataset):
    """COCO pictures with the first five captions each, from an annotation file; each is a class of its own.

    ``COCODataset.from_folder`` opens a whole tree by split instead, also in the family's layout.

    The short side is resized to ``int(S * 76 / 64)``. With ``augment`` a random square of S is taken from that
    and mirrored half of the time, without it the central one. ``key`` is the file's name without extension.

    All files must be there, but pictures are decoded only when they are asked for; ``python -m
    t2ilayers.data.validate coco:ROOT`` decodes all of them.

    Args:
        images: the folder with the pictures, such as ``train2014``.
        annotations: COCO's file of captions, such as ``annotations/captions_train2014.json``.
        image_size: side S, at least 16.
        captions_per_image: how many captions each picture must have, of which so many are used. None takes up to
            five of those that there are.
        seed: of the randomness of ``dataset[index]``.
        augment: crop and mirror at random, as published for training. Mirrored pictures contradict captions
            that say left or right.
        vocabulary: None builds it from this file's captions, so give the other split the same one.
        tokenizer: how captions are split into words where ``vocabulary`` is None; see ``Vocabulary``.
        max_words: longest sequence of tokens.

    Raises:
        DatasetError: all that is wrong, by file: rows that cannot be read, missing pictures, names that lead
            outside, fewer captions, captions with a NUL, a word that ``vocabulary`` lacks.
        NotADirectoryError: ``images`` is no folder.
        ValueError: an argument outside its range.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> content = {
        ...     "images": [{"id": 7, "file_name": "red.jpg"}],
        ...     "annotations": [{"image_id": 7, "caption": "A red picture."}],
        ... }
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (40, 20), "red").save(f"{folder}/red.jpg")
        ...     _ = Path(folder, "captions.json").write_text(json.dumps(content))
        ...     dataset = COCODataset(
        ...         folder,
        ...         f"{folder}/captions.json",
        ...         image_size=16,
        ...         captions_per_image=1,
        ...     )
        ...     sample = dataset[0]
        >>> sample["key"], sample["caption"], sample["image"].shape
        ('red', 'A red picture.', torch.Size([3, 16, 16]))
    """

    def __init__(
        self,
        images: str | os.PathLike[str],
        annotations: str | os.PathLike[str],
        *,
        image_size: int,
        captions_per_image: int | None = None,
        seed: int = 0,
        augment: bool = False,
        vocabulary: Vocabulary | None = None,
        tokenizer: Rule | Tokenizer = "words",
        max_words: int = 18,
    ) -> None:
        root = check_request(images, "train", captions_per_image)
        path = Path(annotations)
        listing = _list_annotations(root, [root], path, captions_per_image, vocabulary, tokenizer)
        super().__init__(
            listing, image_size=image_size, seed=seed, augment=augment, max_words=max_words, as_published=True
        )

    @classmethod
    def from_folder(
        cls,
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
    ) -> Self:
        """A split of a whole tree, in either layout; both have the same vocabulary for both splits.

        With ``{train,test}/filenames.pickle`` it is that of the family, which ``t2ilayers.data.readers.attngan``
        describes. Else it is COCO's own: ``annotations/captions_train*.json`` for ``"train"`` and
        ``annotations/captions_val*.json`` for ``"test"``, one of each, and the vocabulary is that of both files.

        Pictures are looked for in ``images/``, ``images/NAME/`` and ``NAME/``, where ``NAME`` is ``train2014``
        for ``captions_train2014.json`` and for ``COCO_train2014_000000000009``. Where there is a caption pickle,
        ``captions_per_image`` is the number that it was made with, and None is five.

        Raises:
            DatasetError, NotADirectoryError, ValueError: as the class.

        Example:
            >>> COCODataset.from_folder(".", image_size=64)
            Traceback (most recent call last):
                ...
            t2ilayers.data.readers.listing.DatasetError: . has 1 problem: train/filenames.pickle or one
            annotations/captions_train*.json must list the pictures, got none
        """
        dataset = cls.__new__(cls)
        listing = list_coco(root, split, captions_per_image, vocabulary, tokenizer)
        ListedDataset.__init__(
            dataset,
            listing,
            image_size=image_size,
            seed=seed,
            augment=augment,
            max_words=max_words,
            as_published=True,
        )
        return dataset


def list_coco(
    root: str | os.PathLike[str],
    split: str,
    captions_per_image: int | None = None,
    vocabulary: Vocabulary | None = None,
    tokenizer: Rule | Tokenizer = "words",
) -> Listing:
    """What a split says of itself; arguments and errors as of ``COCODataset.from_folder``, problems returned.

    Example:
        >>> list_coco(".", "test").problems
        ['test/filenames.pickle or one annotations/captions_val*.json must list the pictures, got none']
    """
    root = check_request(root, split, captions_per_image)
    if (root / split / "filenames.pickle").exists():
        return list_family(
            root, split, captions_per_image, _USUAL, lambda name: _folders(root, name), vocabulary, tokenizer
        )
    part, other = ("train", "val") if split == "train" else ("val", "train")
    files, others = (sorted((root / "annotations").glob(f"captions_{name}*.json")) for name in (part, other))
    if len(files) != 1:
        got = some([path.name for path in files]) or "none"
        wanted = f"{split}/filenames.pickle or one annotations/captions_{part}*.json"
        return Listing(root, problems=[f"{wanted} must list the pictures, got {got}"])
    folders = _folders(root, files[0].stem)
    return _list_annotations(root, folders, files[0], captions_per_image, vocabulary, tokenizer, others)


def _folders(root: Path, name: str) -> list[Path]:
    """Where the pictures of ``captions_train2014`` or a picture ``COCO_train2014_...`` may lie."""
    part = re.match(r"(?:captions|COCO)_([a-z0-9]+)", name)
    return [root / "images", *([root / "images" / part[1], root / part[1]] if part else [])]


def _list_annotations(
    root: Path,
    folders: Sequence[Path],
    path: Path,
    count: int | None,
    vocabulary: Vocabulary | None,
    tokenizer: Rule | Tokenizer,
    others: Sequence[Path] = (),
) -> Listing:
    """The pictures of one annotation file; those of others count for the vocabulary alone."""
    problems, left_out, tree = list[str](), LeftOut(), Tree(root)
    rule = vocabulary or Vocabulary([END], tokenizer=tokenizer)

    def read(file: Path) -> dict[str, tuple[str, ...]]:
        rows = _read_annotations(file, problems)
        return {
            name: choose_captions(name, row, count or _USUAL, rule, count is not None, problems, left_out)
            for name, row in rows.items()
        }

    captions = read(path)
    rest = {name: row for other in others for name, row in read(other).items()}
    if vocabulary is None:
        texts = (caption for row in (*captions.values(), *rest.values()) for caption in row)
        vocabulary = vocabulary_of(texts, tokenizer)
    note_unlisted(root, folders, {_key(name) for name in (*captions, *rest, path.name)}, left_out)
    pictures = []
    for name, row in captions.items():
        if row or count is not None:
            problems += unknown_words(row, vocabulary, shown(name))
            pictures.append(FilePicture(_key(name), find_picture(tree, name, folders, problems), row))
    keys = Counter(picture.key for picture in pictures)
    problems += [f"{shown(key)}: pictures that differ in their suffix only" for key in keys if keys[key] > 1]
    if not pictures and not problems:
        problems.append(f"{path}: no picture has a caption with a word")
    return Listing(
        root,
        pictures,
        np.arange(len(pictures)),
        vocabulary,
        problems,
        left_out.lines(),
        left_out.lines(by_rule=True),
    )


def _key(name: str) -> str:
    return str(PurePath(name).with_suffix(""))


def _read_annotations(path: Path, problems: list[str]) -> dict[str, list[str]]:
    """All captions of each picture, by file name, in the order of the file's pictures."""
    try:
        content = json.loads(read_regular(path, MAX_BYTES))
        images, annotations = content["images"], content["annotations"]
        if not images or not isinstance(images, list) or not isinstance(annotations, list):
            raise TypeError("images and annotations must be lists, the first of which is not empty")
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        problems.append(f"{path} is no file of COCO captions ({type(error).__name__}: {error!s:.300})")
        return {}
    files: dict[str, int] = {}
    captions: dict[int, list[str]] = {}
    for n, image in enumerate(images):
        match image:
            case {"id": int(number), "file_name": file}:
                problem = name_problem(file)
                if problem is None and (file in files or number in captions):
                    problem = f"{shown(file)}: it or its id {shown(number)} is listed twice"
                if problem is None:
                    files[file] = number
                else:
                    problems.append(f"{path.name}: {problem}")
                captions.setdefault(number, [])
            case _:
                problems.append(f"{path.name}: images[{n}] must have an id and a file_name, got {shown(image)}")
    for n, annotation in enumerate(annotations):
        match annotation:
            case {"image_id": int(number), "caption": str(caption)} if number in captions:
                captions[number].append(caption)
            case _:
                problems.append(
                    f"{path.name}: annotations[{n}] must have a caption and the image_id of one of its images, "
                    f"got {shown(annotation)}"
                )
    return {file: captions[number] for file, number in files.items()}
