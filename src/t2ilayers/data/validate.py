"""Check a data set before training on it: one line a problem, then what there is.

    python -m t2ilayers.data.validate cub:data/birds --text-encoder text_encoder200.pth
    python -m t2ilayers.data.validate coco:data/coco
    python -m t2ilayers.data.validate path/to/folder

Data sets are named as for training (see ``t2ilayers.data.open_dataset``). Both splits are checked: their lists,
pickles, names and captions, that every picture is there and decodes wholly, and with ``--text-encoder`` that the
encoder has as many words as the vocabulary. The exit status is 0 where all is well, 1 with problems, 2 for wrong
usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch

from .open import open_dataset
from .readers.attngan import CAPTION_PICKLES
from .readers.coco import list_coco
from .readers.cub import list_cub
from .readers.listing import DatasetError
from .readers.published import Picture, read_listed
from .readers.shards import CaptionShards

_PUBLISHED = {"cub": (list_cub, 10), "coco": (list_coco, 5)}


@dataclass(frozen=True)
class SplitReport:
    """What is wrong with a split, a line each, and how many pictures, captions and words it has."""

    problems: list[str]
    pictures: int = 0
    captions: int = 0
    words: int = 0


def check_published(kind: str, root: str, split: str, captions_per_image: int | None, decode: bool) -> SplitReport:
    """Check a split of ``cub`` or ``coco`` below ``root``.

    Raises:
        NotADirectoryError: ``root`` is no folder.
        ValueError: ``captions_per_image`` is below 1.

    Example:
        >>> check_published("cub", ".", "train", None, decode=False).problems
        ['train/filenames.pickle: there is no such file']
    """
    read, usual = _PUBLISHED[kind]
    listing = read(root, split, usual if captions_per_image is None else captions_per_image)
    problems = list(listing.problems)
    if decode:
        present = (picture for picture in listing.pictures if picture.path.is_file())
        with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter lock
            problems += filter(None, pool.map(_damage, present))
    words = len(listing.vocabulary) if listing.pictures else 0
    captions = sum(len(picture.captions) for picture in listing.pictures)
    return SplitReport(problems, len(listing.pictures), captions, words)


def check_own(data: str, split: str, captions_per_image: int | None, decode: bool) -> SplitReport:
    """Check a split of a ``CaptionFolder``, all of whose pictures it decodes, or of ``shards:PATTERN``.

    Raises:
        NotADirectoryError: ``data`` is no folder.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     check_own(folder, "train", None, True).problems
        ['no captions.jsonl, metadata.jsonl or metadata.csv, and no picture; is this the right folder?']
    """
    try:
        spec = data if data.startswith("shards:") else Path(data)  # drawn shapes need no check
        dataset = open_dataset(spec, "train" if split == "train" else "test")
    except DatasetError as error:
        return SplitReport(list(error.problems))
    problems = []
    captions = 0
    for n in range(len(dataset)):
        count = len(dataset.captions(n))
        captions += count
        if captions_per_image is not None and count < captions_per_image:
            problems.append(
                f"{dataset.key(n)!r}: {count} captions with a word, must be at least {captions_per_image}"
            )
        if decode and isinstance(dataset, CaptionShards):  # a folder's pictures were decoded when it was opened
            try:
                dataset.image(n, None)
            except DatasetError as error:
                problems += error.problems
    return SplitReport(problems, len(dataset), captions, len(dataset.vocabulary))


def check_encoder(path: Path, words: int) -> list[str]:
    """The problem, if there is one, of a published text encoder (``text_encoderE.pth``) with so many words.

    Raises:
        FileNotFoundError: there is no such checkpoint.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "text_encoder.pth")
        ...     torch.save({"module.encoder.weight": torch.zeros(5450, 3)}, path)
        ...     check_encoder(path, 5450), [text.partition("pth")[2] for text in check_encoder(path, 27297)]
        ([], [' knows 5450 words, the vocabulary has 27297: ...])
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        known = len({str(key).removeprefix("module."): value for key, value in state.items()}["encoder.weight"])
    except Exception as error:  # damaged files make torch raise nearly anything
        return [f"{path} is no published text encoder ({type(error).__name__}: {error})"]
    if known == words:
        return []
    return [
        f"{path} knows {known} words, the vocabulary has {words}: they do not belong together; take the caption "
        "pickle (captions.pickle or captions_DAMSM.pickle) that the encoder was trained with"
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Check what the command line names, print what is found, and return the exit status.

    Example:
        >>> main(["cub:.", "--no-decode"])
        train: train/filenames.pickle: there is no such file
        train: 0 pictures, 0 captions, 0 words
        test: test/filenames.pickle: there is no such file
        test: 0 pictures, 0 captions, 0 words
        2 problems
        1
    """
    parser = argparse.ArgumentParser("python -m t2ilayers.data.validate", description=__doc__.split("\n")[0])
    parser.add_argument(
        "data", help="cub:ROOT, coco:ROOT (either layout), shards:PATTERN, or a folder of one's own"
    )
    parser.add_argument("--text-encoder", type=Path, metavar="FILE", help="published text encoder to go with it")
    parser.add_argument("--captions-per-image", type=int, metavar="N", help="default: 10 for cub, 5 for coco")
    parser.add_argument(
        "--no-decode", action="store_true", help="leave out decoding pictures, of all but a folder"
    )
    options = parser.parse_args(arguments)
    if options.captions_per_image is not None and options.captions_per_image < 1:
        parser.error(f"--captions-per-image is at least 1, got {options.captions_per_image}")
    try:
        problems = _check(options.data, options.captions_per_image, not options.no_decode, options.text_encoder)
    except OSError as error:  # no such folder or checkpoint
        parser.error(str(error))
    print("no problems" if problems == 0 else "1 problem" if problems == 1 else f"{problems} problems")
    return 1 if problems else 0


def _check(data: str, captions_per_image: int | None, decode: bool, text_encoder: Path | None) -> int:
    """Check both splits and the encoder, print what is found, and return the number of problems."""
    kind, _, root = data.partition(":")
    published = bool(root) and kind in _PUBLISHED
    seen: set[str] = set()

    def tell(where: str, problems: Sequence[str]) -> None:
        for problem in problems:
            if problem not in seen:  # what concerns both splits is said once
                print(f"{where}: {problem}")
            seen.add(problem)

    words = 0
    for split in ("train", "test"):
        if published:
            report = check_published(kind, root, split, captions_per_image, decode)
        else:
            report = check_own(data, split, captions_per_image, decode)
        tell(split, report.problems)
        print(f"{split}: {report.pictures} pictures, {report.captions} captions, {report.words} words")
        words = max(words, report.words)
    if text_encoder is not None and words:
        tell("text encoder", check_encoder(text_encoder, words))
        if published and not any((Path(root) / name).is_file() for name in CAPTION_PICKLES):
            print("note: no caption pickle; words in alphabetical order fit no published text encoder")
    return len(seen)


def _damage(picture: Picture) -> str | None:
    read = read_listed(picture, 64)
    return read if isinstance(read, str) else None


if __name__ == "__main__":
    sys.exit(main())
