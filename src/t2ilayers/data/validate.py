"""Check a data set before training on it: one line per problem, then what there is.

    python -m t2ilayers.data.validate cub:data/birds --text-encoder text_encoder200.pth
    python -m t2ilayers.data.validate "coco:data/coco?captions_per_image=1"
    python -m t2ilayers.data.validate path/to/folder

Data sets are named as for training (see ``t2ilayers.data.open_dataset``). Both splits are checked: their lists,
pickles, names and captions, that every picture is there and decodes wholly, and with ``--text-encoder`` that the
encoder has as many words as the vocabulary. Notes tell what is left out, and which captions are too long to be
used whole. The exit status is 0 where all is well, 1 with problems, 2 for wrong usage.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from .._files import open_regular, shown
from .listed import read_listed
from .open import list_dataset, read_spec
from .readers.attngan import CAPTION_PICKLES
from .readers.listing import DatasetError, Listing, Picture


@dataclass(frozen=True)
class SplitReport:
    """What is wrong with a split and what is left out, a line each, and how much there is of it."""

    problems: list[str]
    notes: list[str]
    pictures: int = 0
    captions: int = 0
    words: int = 0


def check_split(data: str, split: Literal["train", "test"], *, decode: bool = True) -> SplitReport:
    """Check a split of any data set but ``shapes``.

    Raises:
        NotADirectoryError, ValueError: as ``open_dataset``, but for problems.

    Example:
        >>> check_split("cub:.", "train").problems
        ['train/filenames.pickle: cannot be read (No such file or directory)']
    """
    listing, options = list_dataset(data, split)
    as_published = read_spec(data)[0] in ("cub", "coco")

    def damage(picture: Picture) -> str | None:
        try:
            picture.stamp()
        except OSError:  # there is no such file, which the listing says
            return None
        read = read_listed(picture, 64, as_published=as_published)
        return read if isinstance(read, str) else None

    problems = list(listing.problems)
    if decode:
        with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter lock
            problems += filter(None, pool.map(damage, listing.pictures))
    captions, long = _count(listing, options.get("max_words", 18), problems)
    notes = [*listing.notes, *listing.by_rule, *long]
    words = len(listing.vocabulary) if listing.pictures else 0
    return SplitReport(list(dict.fromkeys(problems)), notes, len(listing.pictures), captions, words)


def _count(listing: Listing, max_words: int, problems: list[str]) -> tuple[int, list[str]]:
    """How many captions there are, and a line on those of more than ``max_words`` words."""
    captions = long = 0
    first = ""
    for picture in listing.pictures:
        try:
            row = picture.captions
        except DatasetError as error:
            problems += error.problems
            continue
        captions += len(row)
        for caption in row:
            if len(listing.vocabulary.tokenize(caption)) > max_words:
                long += 1
                first = first or caption
    told = (
        f"{long} captions have more than {max_words} words, of which {max_words} are drawn each time; the first "
        f"is {shown(first)}"
    )
    return captions, [told] if long else []


def check_encoder(path: Path, words: int) -> list[str]:
    """The problem, if there is one, of a published text encoder (``text_encoderE.pth``) with so many words.

    Raises:
        OSError: there is no such checkpoint.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "text_encoder.pth")
        ...     torch.save({"module.encoder.weight": torch.zeros(5450, 3)}, path)
        ...     (
        ...         check_encoder(path, 5450),
        ...         [text.partition("pth")[2] for text in check_encoder(path, 27297)],
        ...     )
        ([], [' knows 5450 words, the vocabulary has 27297: ...])
    """
    with open_regular(path) as file:
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
            known = len(
                {str(key).removeprefix("module."): value for key, value in state.items()}["encoder.weight"]
            )
        except Exception as error:  # damaged files make torch raise nearly anything
            return [f"{path} is no published text encoder ({type(error).__name__}: {error!s:.300})"]
    if known == words:
        return []
    return [
        f"{path} knows {known} words, the vocabulary has {words}: they do not belong together; take the caption "
        "pickle (captions.pickle or captions_DAMSM.pickle) that the encoder was trained with"
    ]


def main(arguments: Sequence[str] | None = None, *, program: str = "python -m t2ilayers.data.validate") -> int:
    """Check what the command line names, print what is found, and return the exit status.

    Example:
        >>> main(["cub:.", "--no-decode"])
        train: train/filenames.pickle: cannot be read (No such file or directory)
        train: 0 pictures, 0 captions, 0 words
        test: test/filenames.pickle: cannot be read (No such file or directory)
        test: 0 pictures, 0 captions, 0 words
        2 problems
        1
    """
    parser = argparse.ArgumentParser(program, description=__doc__.split("\n")[0])
    parser.add_argument(
        "data", help="cub:ROOT, coco:ROOT (either layout), shards:PATTERN, or a folder of one's own; with options"
    )
    parser.add_argument("--text-encoder", type=Path, metavar="FILE", help="published text encoder to go with it")
    parser.add_argument("--no-decode", action="store_true", help="leave out decoding pictures")
    options = parser.parse_args(arguments)
    if options.data == "shapes":
        print("drawn shapes need no check: nothing of them is read from a disk")
        return 0
    try:
        problems = _check(options.data, not options.no_decode, options.text_encoder)
    except (OSError, ValueError, ImportError) as error:  # no such folder, option or checkpoint
        parser.error(str(error))
    print("no problems" if problems == 0 else "1 problem" if problems == 1 else f"{problems} problems")
    return 1 if problems else 0


def _check(data: str, decode: bool, text_encoder: Path | None) -> int:
    """Check both splits and the encoder, print what is found, and return the number of problems."""
    seen: set[str] = set()

    def tell(where: str, lines: Sequence[str]) -> int:
        new = [line for line in dict.fromkeys(lines) if line not in seen]  # what concerns both splits is said once
        seen.update(new)
        for line in new:
            print(f"{where}: {line:.500}")
        return len(new)

    words = problems = 0
    splits: tuple[Literal["train", "test"], ...] = ("train", "test")
    for split in splits:
        report = check_split(data, split, decode=decode)
        problems += tell(split, report.problems)
        tell(f"{split}: note", report.notes)
        print(f"{split}: {report.pictures} pictures, {report.captions} captions, {report.words} words")
        words = max(words, report.words)
    if text_encoder is not None and words:
        problems += tell("text encoder", check_encoder(text_encoder, words))
        kind, root, _ = read_spec(data)
        if kind in ("cub", "coco") and not any((Path(root) / name).is_file() for name in CAPTION_PICKLES):
            print("note: no caption pickle; words in alphabetical order fit no published text encoder")
    return problems


if __name__ == "__main__":
    sys.exit(main())
