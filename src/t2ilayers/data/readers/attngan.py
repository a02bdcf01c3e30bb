"""The layout of the AttnGAN family: names and classes in pickles, captions in text files and a pickle.

Below the root::

    {train,test}/filenames.pickle    names without extension
    {train,test}/class_info.pickle   a class id each; without the file, each picture is a class of its own
    text/<name>.txt                  one caption per line
    captions.pickle or captions_DAMSM.pickle
                                     [train captions, test captions, ixtoword, wordtoix], captions as word ids

The caption pickle decides the order of the words, which must be that of the text encoder. Without one the
vocabulary is built from the text files of both splits, alphabetically; without ``text/`` the captions are those
of the pickle, in its words. Where both are there they must agree: a pickle that was made from another list of
names pairs every picture with the captions of another one, and nothing else would show it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..._files import shown
from ...vocabulary import END, Vocabulary
from ...words import Rule, Tokenizer, tokenize
from . import pickles
from .listing import (
    FilePicture,
    LeftOut,
    Listing,
    unknown_words,
    vocabulary_of,
)
from .names import Tree, name_problem
from .published import choose_captions, find_picture, note_unlisted
from .rows import MAX_TEXT_BYTES, read_text

CAPTION_PICKLES = ("captions.pickle", "captions_DAMSM.pickle")


@dataclass(frozen=True)
class CaptionPickle:
    """A caption pickle: word ids of all captions by split, picture after picture, and the vocabulary."""

    path: Path
    captions: dict[str, list[list[int]]]
    vocabulary: Vocabulary

    def words(self, split: str, index: int, count: int) -> list[list[str]]:
        """The words of the ``count`` captions of picture ``index``."""
        rows = self.captions[split][index * count : (index + 1) * count]
        return [[self.vocabulary.words[word] for word in row] for row in rows]


def read_caption_pickle(path: Path) -> CaptionPickle:
    """Read a ``captions.pickle`` or ``captions_DAMSM.pickle``.

    Raises:
        OSError: it cannot be read.
        ValueError: it is something else or does not fit together; the message names the file.

    Example:
        >>> import pickle, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "captions.pickle")
        ...     content = [
        ...         [[1, 2]],
        ...         [[2]],
        ...         {0: "<end>", 1: "red", 2: "bird"},
        ...         {"<end>": 0, "red": 1, "bird": 2},
        ...     ]
        ...     _ = path.write_bytes(pickle.dumps(content, protocol=2))
        ...     read_caption_pickle(path).words("train", 0, 1)
        [['red', 'bird']]
    """
    return caption_pickle(path, pickles.load(path))


def caption_pickle(path: Path, content: Any) -> CaptionPickle:
    """What a file holds as a caption pickle; ValueError, naming the file, where it is none.

    Example:
        >>> caption_pickle(
        ...     Path("a.pickle"), [[], [], {0: "<end>"}, {"<end>": 0}]
        ... ).vocabulary.words
        ('<end>',)
    """
    try:
        train, test, words, indices = content
        vocabulary = Vocabulary([words[index] for index in range(len(words))], tokenizer="ascii")
        strange = [word for word in vocabulary.words[1:] if tokenize(word, "ascii") != [word]]
        if strange:
            raise ValueError(f"{shown(strange[0])} is not one word by the family's rule")
        if indices != {word: index for index, word in enumerate(vocabulary)}:
            raise ValueError("wordtoix is not the inverse of ixtoword")
        for rows in (train, test):
            if not (isinstance(rows, list) and all(isinstance(row, list) for row in rows)):
                raise TypeError("captions are a list of lists")
            if not all(type(index) is int and 0 < index < len(vocabulary) for row in rows for index in row):
                raise ValueError(f"a caption has a word id outside [1, {len(vocabulary)})")
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} holds no [train_captions, test_captions, ixtoword, wordtoix]: {error!s:.300}"
        ) from error
    return CaptionPickle(path, {"train": train, "test": test}, vocabulary)


def list_family(
    root: Path,
    split: str,
    captions_per_image: int | None,
    usual: int,
    folders_of: Callable[[str], list[Path]],
    vocabulary: Vocabulary | None = None,
    tokenizer: Rule | Tokenizer = "words",
) -> Listing:
    """What one split of a tree in this layout says of itself.

    Args:
        root: the tree.
        split: ``"train"`` or ``"test"``.
        captions_per_image: how many captions a picture has in the pickle, and how many of its text are used. None
            is ``usual``, and without a pickle as many up to that as there are.
        usual: ten or five.
        folders_of: the folders in which the picture of a name may lie.
        vocabulary: instead of that of the pickle or the text; it must have all words.
        tokenizer: of the text's vocabulary.

    Example:
        >>> list_family(
        ...     Path("nowhere"), "train", None, 10, lambda name: [Path("images")]
        ... ).problems
        ['nowhere/train/filenames.pickle: cannot be read (No such file or directory)']
    """
    problems, left_out, tree = list[str](), LeftOut(), Tree(root)
    names = _names(tree, root / split / "filenames.pickle", problems)
    if not names:
        return Listing(root, problems=problems)
    class_ids = _class_ids(tree, root / split / "class_info.pickle", len(names), problems)
    has_text = (root / "text").is_dir()
    # Given words and given text leave nothing to ask the pickle for.
    published = None if vocabulary is not None and has_text else _caption_pickle(tree, problems)
    count = captions_per_image or usual
    if published:
        problems += _miscounted(published, split, len(names), count)
    if not (has_text or published):
        problems.append(f"{root} has neither text/ nor {' or '.join(CAPTION_PICKLES)}, so no captions")
    if problems:
        return Listing(root, problems=problems)

    given = vocabulary or (published.vocabulary if published else None)
    # Without words of their own, both splits are needed for them; else the other one only tells what is its own.
    other_list = root / ("test" if split == "train" else "train") / "filenames.pickle"
    other = _names(tree, other_list, [] if given else problems)
    folders = [folder for name in (names[0], *other[:1]) for folder in folders_of(name)]
    note_unlisted(root, [root / "text", *folders], {*names, *other}, left_out)
    rule = given or Vocabulary([END], tokenizer=tokenizer)
    exactly = published is not None or captions_per_image is not None

    def text_of(name: str) -> tuple[str, ...]:
        lines = _text(tree, name, problems)
        return choose_captions(name, lines, count, rule, exactly, problems, left_out)

    rows = []
    for index, name in enumerate(names):
        words = published.words(split, index, count) if published else []
        if has_text:
            rows.append(text_of(name))
            problems += _disagreement(name, rows[-1], words)
        else:
            lines = list(map(" ".join, words))
            rows.append(choose_captions(name, lines, count, rule, exactly, problems, left_out))
    if given is None:
        given = vocabulary_of((caption for row in (*rows, *map(text_of, other)) for caption in row), tokenizer)
    pictures, kept = [], []
    for index, (name, row) in enumerate(zip(names, rows, strict=True)):
        if row or exactly:
            if vocabulary is not None:
                problems += unknown_words(row, vocabulary, shown(name))
            pictures.append(FilePicture(name, find_picture(tree, f"{name}.jpg", folders_of(name), problems), row))
            kept.append(index)
    return Listing(
        root, pictures, class_ids[kept], given, problems, left_out.lines(), left_out.lines(by_rule=True)
    )


def _load(tree: Tree, path: Path, problems: list[str]) -> Any:
    """What a pickle holds; None where it cannot be read, which is a problem."""
    try:
        problem = tree.problem(path)
        if problem is None:
            return pickles.load(path)
        problems.append(f"{path}: {problem}")
    except OSError as error:
        problems.append(f"{path}: cannot be read ({error.strerror})")
    except ValueError as error:
        problems.append(str(error))
    return None


def _names(tree: Tree, path: Path, problems: list[str]) -> list[str]:
    """The names of a split; if anything is wrong with them, none."""
    found: list[str] = []
    names = _load(tree, path, found)
    if not found and not (isinstance(names, list) and names):
        found = [f"{path}: it must hold a list of names, got {shown(names)}"]
    if not found:
        found = [f"{path}: {problem}" for problem in map(name_problem, names) if problem]
    if not found:
        counts = Counter(names)
        found = [f"{path}: {shown(name)} is listed twice" for name, count in counts.items() if count > 1]
    problems += found
    return [] if found else names


def _class_ids(tree: Tree, path: Path, count: int, problems: list[str]) -> npt.NDArray[np.int64]:
    if path.exists():
        found: list[str] = []
        ids = _load(tree, path, found)
        if isinstance(ids, np.ndarray) and ids.dtype.kind in "iu" and ids.ndim == 1:
            ids = ids.tolist()
        if isinstance(ids, list | tuple) and len(ids) == count and all(map(_is_class, ids)):
            return np.array(ids, np.int64)
        problems += found or [f"{path}: it must hold a whole number for each of {count} names, got {shown(ids)}"]
    return np.arange(count)


def _is_class(value: object) -> bool:
    return isinstance(value, int | np.integer) and -(2**63) <= int(value) < 2**63


def _caption_pickle(tree: Tree, problems: list[str]) -> CaptionPickle | None:
    """The caption pickle that is there; of two, the first, if their words are the same."""
    found = []
    for path in (tree.root / name for name in CAPTION_PICKLES):
        if path.exists():
            before = len(problems)
            content = _load(tree, path, problems)
            try:
                found += [caption_pickle(path, content)] if len(problems) == before else []
            except ValueError as error:
                problems.append(str(error))
    if len({pickle.vocabulary for pickle in found}) > 1:
        problems.append(
            f"{' and '.join(CAPTION_PICKLES)} number different words; keep only the one that belongs to your text "
            "encoder"
        )
    return found[0] if found else None


def _miscounted(published: CaptionPickle, split: str, pictures: int, per_picture: int) -> list[str]:
    count = len(published.captions[split])
    if count == pictures * per_picture:
        return []
    return [
        f"{published.path}: {per_picture} captions for each of {pictures} pictures of {split}, got {count}; "
        "it belongs to another filenames.pickle, or captions_per_image is wrong"
    ]


def _text(tree: Tree, name: str, problems: list[str]) -> list[str]:
    """The lines of a picture's text file."""
    path = tree.root / "text" / f"{name}.txt"
    if problem := tree.problem(path):
        problems.append(f"{shown(name)}: text/{shown(name)[1:-1]}.txt: {problem}")
        return []
    found: list[str] = []
    lines = read_text(path, f"text/{name}.txt", MAX_TEXT_BYTES, found).split("\n")
    problems += [f"{shown(name)}: {problem}" for problem in found]
    return lines


def _disagreement(name: str, captions: Sequence[str], words: list[list[str]]) -> list[str]:
    """The first caption of a picture that has other words in the pickle."""
    for number, (caption, row) in enumerate(zip(captions, words, strict=False), 1):
        if tokenize(caption, "ascii") != row:
            return [
                f"{shown(name)}: caption {number} is {shown(caption)} in text/ and {shown(' '.join(row))} in the "
                "caption pickle; move the wrong one of the two away"
            ]
    return []
