"""The layout of the AttnGAN family: names and classes in pickles, captions in text files and a pickle.

Below the root::

    {train,test}/filenames.pickle    names without extension
    {train,test}/class_info.pickle   a class id each; without the file, each picture is a class of its own
    text/<name>.txt                  a caption a line
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

import numpy as np
import numpy.typing as npt

from ...vocabulary import Vocabulary, tokenize
from . import pickles
from .published import (
    Listing,
    Picture,
    choose_captions,
    find_picture,
    name_problem,
    unknown_words,
    vocabulary_of,
)

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
        ...     content = [[[1, 2]], [[2]], {0: "<end>", 1: "red", 2: "bird"}, {"<end>": 0, "red": 1, "bird": 2}]
        ...     _ = path.write_bytes(pickle.dumps(content, protocol=2))
        ...     read_caption_pickle(path).words("train", 0, 1)
        [['red', 'bird']]
    """
    content = pickles.load(path)
    try:
        train, test, words, indices = content
        vocabulary = Vocabulary([words[index] for index in range(len(words))])
        strange = [word for word in vocabulary.words[1:] if tokenize(word) != [word]]
        if strange:
            raise ValueError(f"{strange[0]!r} is not one word by the family's rule")
        if indices != {word: index for index, word in enumerate(vocabulary)}:
            raise ValueError("wordtoix is not the inverse of ixtoword")
        for rows in (train, test):
            if not (isinstance(rows, list) and all(isinstance(row, list) for row in rows)):
                raise TypeError("captions are a list of lists")
            if not all(type(index) is int and 0 < index < len(vocabulary) for row in rows for index in row):
                raise ValueError(f"a caption has a word id outside [1, {len(vocabulary)})")
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} holds no [train_captions, test_captions, ixtoword, wordtoix]: {error}"
        ) from error
    return CaptionPickle(path, {"train": train, "test": test}, vocabulary)


def list_family(
    root: Path,
    split: str,
    captions_per_image: int,
    folders_of: Callable[[str], list[Path]],
    vocabulary: Vocabulary | None = None,
) -> Listing:
    """What one split of a tree in this layout says of itself.

    Args:
        root: the tree.
        split: ``"train"`` or ``"test"``.
        captions_per_image: how many captions a picture has in the pickle, and how many of its text are used.
        folders_of: the folders in which the picture of a name may lie.
        vocabulary: instead of that of the pickle or the text; it must have all words.

    Example:
        >>> list_family(Path("nowhere"), "train", 10, lambda name: [Path("images")]).problems
        ['nowhere/train/filenames.pickle: there is no such file']
    """
    problems: list[str] = []
    names = _names(root / split / "filenames.pickle", problems)
    if not names:
        return Listing(root, problems)
    class_ids = _class_ids(root / split / "class_info.pickle", len(names), problems)
    has_text = (root / "text").is_dir()
    # Given words and given text leave nothing to ask the pickle for.
    published = None if vocabulary is not None and has_text else _caption_pickle(root, problems)
    if published:
        problems += _miscounted(published, split, len(names), captions_per_image)
    if not (has_text or published):
        problems.append(f"{root} has neither text/ nor {' or '.join(CAPTION_PICKLES)}, so no captions")
    if problems:
        return Listing(root, problems)

    def text_of(name: str) -> tuple[str, ...]:
        return _text_captions(root / "text", name, captions_per_image, problems)

    captions = []
    for index, name in enumerate(names):
        words = published.words(split, index, captions_per_image) if published else []
        if has_text:
            chosen = text_of(name)
            problems += _disagreement(name, chosen, words)
        else:
            chosen = choose_captions(name, list(map(" ".join, words)), captions_per_image, problems)
        captions.append(chosen)
    pictures = [
        Picture(name, find_picture(f"{name}.jpg", folders_of(name), problems), row)
        for name, row in zip(names, captions, strict=True)
    ]
    if vocabulary is not None:
        problems += unknown_words(pictures, vocabulary)
    elif published is not None:
        vocabulary = published.vocabulary
    else:
        other = "test" if split == "train" else "train"
        captions += map(text_of, _names(root / other / "filenames.pickle", problems))
        vocabulary = vocabulary_of(captions)
    return Listing(root, problems, pictures, class_ids, vocabulary)


def _names(path: Path, problems: list[str]) -> list[str]:
    """The names of a split; if anything is wrong with them, none."""
    try:
        names = pickles.load(path)
    except (OSError, ValueError) as error:
        problems.append(str(error))
        return []
    if not isinstance(names, list) or not names:
        problems.append(f"{path}: it holds a list of names, got {names!r:.80}")
        return []
    found = [f"{path}: {problem}" for problem in map(name_problem, names) if problem]
    if not found:
        found = [f"{path}: {name!r} is listed twice" for name, count in Counter(names).items() if count > 1]
    problems += found
    return [] if found else names


def _class_ids(path: Path, count: int, problems: list[str]) -> npt.NDArray[np.int64]:
    if not path.is_file():
        return np.arange(count)
    try:
        ids = np.array(pickles.load(path))
    except (OSError, ValueError) as error:
        problems.append(str(error))
    else:
        if ids.dtype.kind in "iu" and ids.shape == (count,):
            return ids.astype(np.int64)
        problems.append(
            f"{path}: it holds a whole number for each of {count} names, got {ids.dtype} of shape {ids.shape}"
        )
    return np.arange(count)


def _caption_pickle(root: Path, problems: list[str]) -> CaptionPickle | None:
    """The caption pickle that is there; of two, the first, if their words are the same."""
    found = []
    for path in (root / name for name in CAPTION_PICKLES):
        if path.is_file():
            try:
                found.append(read_caption_pickle(path))
            except (OSError, ValueError) as error:
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


def _text_captions(folder: Path, name: str, count: int, problems: list[str]) -> tuple[str, ...]:
    path = folder / f"{name}.txt"
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{name!r}: {path} cannot be read ({error})")
        return ()
    return choose_captions(name, lines, count, problems)


def _disagreement(name: str, captions: Sequence[str], words: list[list[str]]) -> list[str]:
    """The first caption of a picture that has other words in the pickle."""
    for number, (caption, row) in enumerate(zip(captions, words, strict=False), 1):
        if tokenize(caption) != row:
            return [
                f"{name!r}: caption {number} is {caption!r:.80} in text/ and {' '.join(row)!r:.80} in the caption "
                "pickle; move the wrong one of the two away"
            ]
    return []
