"""A folder of captioned pictures that its user made: the dataset, and what the folder says of itself."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from ..._files import shown
from ...vocabulary import Vocabulary
from ...words import Rule, Tokenizer
from ..dataset import check_image_size, check_seed
from ..listed import ListedDataset
from ..pictures import SUFFIXES
from .listing import (
    MAX_LABEL,
    WITHOUT_CAPTION,
    FilePicture,
    LeftOut,
    Listing,
    class_ids,
    nul_problem,
    unknown_words,
    vocabulary_of,
    with_words,
)
from .names import SPLITS, Tree, is_file, is_folder, name_problem, split_of
from .rows import LISTS, MAX_TEXT_BYTES, Row, read_text

# A .txt of these names is no picture's, though no picture has its name; where a list names the pictures, nothing
# is left out by passing over it.
_DOCUMENTS = (
    *("readme", "license", "licence", "copying", "copyright", "notice", "changelog", "attribution"),
    "requirements",
)
_UNLISTED = "{count} pictures that no list names: {names}"
_OTHERS = "{count} files that are neither pictures nor captions of these: {names}"
_LINKED = "{count} links to folders that are read already, or hold this one: {names}"


class CaptionFolder(ListedDataset):
    """Pictures with captions below a folder, which is checked wholly before training starts.

    The folder says what the pictures show in one of these ways, looked for in this order:

    - ``captions.jsonl``, one row per picture: ``{"file": "a.png", "captions": ["a bird", "a red bird"]}``, which
      may have a ``"split"`` and a class besides;
    - ``metadata.jsonl``, ``metadata.csv`` or ``metadata.parquet`` as Hugging Face's ``imagefolder`` has them:
      ``file_name`` and ``text``, and several rows for a picture with several captions. Parquet needs the extra
      ``parquet``;
    - a ``.txt`` beside each picture, one caption per line.

    Lists may lie in the folder itself or in those below, one in each; files are named relative to their list.
    Any format that Pillow reads by itself will do. The central square of a picture is resized to S (bicubic,
    antialiased). With ``augment`` it is resized to ``int(S * 76 / 64)``, and ``rng`` picks a crop of S and whether
    it is mirrored. Decoded pictures are kept in memory where they take at most 512 MiB, and read each time
    otherwise.

    Splits are, where there are any: the ``split`` of the rows; else a word in the name of a folder on the way to
    the picture; else, where all pictures have one, a word in their own names. ``train`` and ``training`` are the
    words for one split, ``test``, ``testing``, ``val``, ``valid``, ``validation``, ``dev``, ``eval`` and
    ``evaluation`` for the other. Where nothing names a picture for testing, a hash of the files' names decides.

    Links are followed below the folder, and out of it to a file of the link's own name or one named by a hash, as
    huggingface_hub, DVC and git-annex have them; from picture to picture; and from a ``.txt`` to the one beside
    that picture. Hidden files and folders are passed over.

    Args:
        root: the folder.
        split: ``"train"`` or ``"test"``; None takes both.
        image_size: side S of the pictures, at least 16.
        seed: of the randomness of ``dataset[index]``.
        class_field: field with a picture's class, a string or number; pictures without are a class each. Ids
            are the same in every split.
        test_fraction: of the pictures to be test pictures where nothing names splits, in [0, 1].
        augment: crop and mirror at random. Mirrored pictures contradict captions that say left or right.
        vocabulary: None takes the words of the captions of every split.
        tokenizer: how captions are split into words where ``vocabulary`` is None; see ``Vocabulary``.
            ``"characters"`` is for languages without spaces.
        max_words: longest sequence of tokens; more than 18 for characters.
        one_caption: a ``.txt`` is one caption, whatever lines it has.

    Attributes:
        vocabulary: words of the captions of every split.

    Raises:
        DatasetError: all that is wrong, by file: pictures of this split that do not decode wholly or are too
            large, pictures of any split that are missing or outside the folder, a ``.txt`` without picture and the
            reverse, captions with a NUL, rows that cannot be read, splits nobody knows, an empty split, words that
            ``vocabulary`` lacks, folders that cannot be read.
        ValueError: an argument outside its range.
        NotADirectoryError: ``root`` is no folder.
        ImportError: Pillow is not installed (extra ``train``), or pyarrow where it is needed (``parquet``).

    Warns:
        UserWarning: a line for each kind of thing that is left out, with the first names: captions without a word,
            pictures without a caption, pictures that no list names, files that are neither.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.new("RGB", (40, 20), "red").save(f"{folder}/red.png")
        ...     _ = Path(folder, "red.txt").write_text("a red picture\\nplain red\\n")
        ...     dataset = CaptionFolder(folder, split=None, image_size=16)
        >>> dataset.key(0), dataset.captions(0), dataset.image(0).shape
        ('red.png', ('a red picture', 'plain red'), torch.Size([3, 16, 16]))
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        split: Literal["train", "test"] | None = "train",
        image_size: int = 64,
        seed: int = 0,
        class_field: str = "class_id",
        test_fraction: float = 0.1,
        augment: bool = False,
        vocabulary: Vocabulary | None = None,
        tokenizer: Rule | Tokenizer = "words",
        max_words: int = 18,
        one_caption: bool = False,
    ) -> None:
        check_image_size(image_size)
        check_seed(seed)
        listing = list_folder(
            root,
            split,
            class_field=class_field,
            test_fraction=test_fraction,
            vocabulary=vocabulary,
            tokenizer=tokenizer,
            one_caption=one_caption,
        )
        super().__init__(
            listing, image_size=image_size, seed=seed, augment=augment, max_words=max_words, decode=True
        )


@dataclass
class _Record:
    """One picture: its name relative to the root, captions, split, class as JSON text, and the list it is from."""

    file: str
    split: str | None
    label: str | None
    source: str
    captions: list[str] = field(default_factory=list)


def list_folder(
    root: str | os.PathLike[str],
    split: str | None,
    *,
    class_field: str = "class_id",
    test_fraction: float = 0.1,
    vocabulary: Vocabulary | None = None,
    tokenizer: Rule | Tokenizer = "words",
    one_caption: bool = False,
) -> Listing:
    """What a folder says of a split; arguments and errors as of ``CaptionFolder``, problems returned.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "bird.png").write_bytes(b"")
        ...     _ = Path(folder, "bird.txt").write_text("a bird\\na red bird\\n")
        ...     listing = list_folder(folder, "train")
        >>> listing.pictures[0].key, listing.pictures[0].captions, listing.problems
        ('bird.png', ('a bird', 'a red bird'), [])
    """
    if split not in ("train", "test", None):
        raise ValueError(f'split must be "train", "test" or None, got {shown(split)}')
    if not 0.0 <= test_fraction <= 1.0:
        raise ValueError(f"test_fraction must lie in [0, 1], got {test_fraction}")
    if not is_folder(Path(root)):
        raise NotADirectoryError(f"root must be a folder of captioned pictures, got {shown(os.fspath(root), 300)}")
    tree, problems, left_out = Tree(Path(root)), list[str](), LeftOut()
    records = _records(tree, class_field, one_caption, problems, left_out)
    _settle_splits(records, test_fraction, problems)

    if vocabulary is None:
        vocabulary = vocabulary_of((caption for record in records for caption in record.captions), tokenizer)
    pictures, splits, labels = [], [], []
    for record in records:
        where = shown(record.file)
        captions = with_words(record.captions, vocabulary, where, left_out)
        if not captions:
            left_out.add(WITHOUT_CAPTION, where)
            continue
        problems += nul_problem(captions, where)
        problems += unknown_words(captions, vocabulary, where)
        pictures.append(FilePicture(record.file, tree.root / record.file, captions))
        splits.append(record.split)
        labels.append((record.label or "").encode("utf-8", "surrogatepass"))
    chosen = [n for n, its_split in enumerate(splits) if split in (None, its_split)]
    if not chosen and not problems:
        problems.append(f"no picture in split {split!r} of {len(pictures)}")
    ids = class_ids(np.array(labels, dtype=np.bytes_))[chosen]
    return Listing(tree.root, [pictures[n] for n in chosen], ids, vocabulary, problems, left_out.lines())


def _records(
    tree: Tree, class_field: str, one_caption: bool, problems: list[str], left_out: LeftOut
) -> list[_Record]:
    """All pictures that the folder lists, and all that lies beside them."""
    files, linked = tree.walk(problems)
    for name in linked:
        left_out.add(_LINKED, shown(name))
    records: dict[str, _Record] = {}
    used: set[str] = set()
    lists = sorted((file for file in files if PurePosixPath(file).name in LISTS), key=_preference)
    if not lists:
        for row in _text_rows(tree, files, one_caption, used, problems):
            problems += _add(records, row, tree, PurePosixPath(), ".txt")
    folders: dict[PurePosixPath, str] = {}
    for name in lists:
        folder = PurePosixPath(name).parent
        if folder in folders:
            left_out.add("{count} lists beside another one: {names}", shown(name))
        elif problem := tree.problem(tree.root / name):
            problems.append(f"{shown(name)}: {problem}")
        else:
            folders[folder] = name
            for row in LISTS[PurePosixPath(name).name](tree.root / name, name, class_field, problems):
                problems += _add(records, row, tree, folder, name)
        used.add(name)
    for file in files:
        if file not in records and file not in used and not (lists and _is_document(file)):
            is_picture = lists and PurePosixPath(file).suffix.lower() in SUFFIXES
            left_out.add(_UNLISTED if is_picture else _OTHERS, shown(file))
    return list(records.values())


def _is_document(file: str) -> bool:
    path = PurePosixPath(file)
    return path.suffix.lower() == ".txt" and path.stem.lower().startswith(_DOCUMENTS)


def _preference(name: str) -> tuple[str, int]:
    path = PurePosixPath(name)
    return str(path.parent), list(LISTS).index(path.name)


def _add(records: dict[str, _Record], row: Row, tree: Tree, folder: PurePosixPath, source: str) -> list[str]:
    """Take a row into the records, or say what is wrong with it."""
    problem = name_problem(row.file)
    if problem:
        return [f"{row.where}: {problem}"]
    file = str(folder / row.file)
    name = shown(file)
    texts = row.texts()
    split = SPLITS.get(str(row.split).lower())
    label = None if row.label is None else json.dumps(row.label, default=str)
    if problem := tree.problem(tree.root / file):
        return [f"{name}: {problem}"]
    if not is_file(tree.root / file):
        return [f"{name}: there is no such file"]
    if texts is None:
        return [f"{name}: captions must be strings, got {shown(row.captions)}"]
    if split is None and row.split is not None:
        return [f"{name}: the split must be one of {', '.join(SPLITS)}, got {shown(row.split)}"]
    if isinstance(row.label, (list, dict)) or len(label or "") > MAX_LABEL:
        return [f"{name}: the class must be a string or number, and short, got {shown(row.label)}"]
    known = records.get(file)
    if known is None:
        records[file] = _Record(file, split, label, source, texts)
    elif known.source != source or source.endswith("captions.jsonl"):
        return [f"{name}: listed twice, again in {row.where}"]
    elif (known.split, known.label) != (split, label):
        return [f"{name}: {row.where} gives another split or class than the row before"]
    else:
        known.captions += texts
    return []


def _text_rows(
    tree: Tree, files: Sequence[str], one_caption: bool, used: set[str], problems: list[str]
) -> Iterator[Row]:
    """A row for each picture with a ``.txt`` beside it; either without the other is a problem."""
    paths = [PurePosixPath(file) for file in files]
    texts = {path.with_suffix(""): path for path in paths if path.suffix.lower() == ".txt"}
    pictures = [path for path in paths if path.suffix.lower() in SUFFIXES]
    if not pictures:
        lists = "captions.jsonl, metadata.jsonl or .csv or .parquet"
        problems.append(f"no {lists}, and no picture; is this the right folder?")
    lonely = dict(texts)
    for picture in pictures:
        text = texts.get(picture.with_suffix(""))
        used.add(str(picture))
        if text is None:
            problems.append(f"{shown(str(picture))}: no {picture.stem:.80}.txt with its captions beside it")
            continue
        lonely.pop(picture.with_suffix(""), None)
        used.add(str(text))
        if problem := tree.problem(tree.root / text, tree.root / picture):
            problems.append(f"{shown(str(text))}: {problem}")
            continue
        content = read_text(tree.root / text, str(text), MAX_TEXT_BYTES, problems)
        lines = [content] if one_caption else [line for line in content.splitlines() if line.strip()]
        yield Row(text.name, str(picture), lines)
    for text in lonely.values():
        if not text.stem.lower().startswith(_DOCUMENTS):
            used.add(str(text))
            problems.append(f"{shown(str(text))}: captions without a picture of the same name beside them")


def _settle_splits(records: Sequence[_Record], test_fraction: float, problems: list[str]) -> None:
    """Give each record its split, and say which have none while others do."""
    if all(record.split is None for record in records):
        _take_splits_of_names(records)
    unnamed = [record for record in records if record.split is None]
    if len(unnamed) < len(records):
        problems += [f"{shown(record.file)}: no split, while other pictures have one" for record in unnamed]
    else:
        _hold_out(unnamed, test_fraction)


def _take_splits_of_names(records: Sequence[_Record]) -> None:
    """The splits that folders name, or else the files themselves; none where all that is named is for training."""
    paths = [PurePosixPath(record.file) for record in records]
    of_folders = [next(filter(None, map(split_of, reversed(path.parent.parts))), None) for path in paths]
    of_files = [split_of(path.stem) for path in paths]
    splits = of_files if not any(of_folders) and set(of_files) == {"train", "test"} else of_folders
    if set(splits) != {"train"}:
        for record, split in zip(records, splits, strict=True):
            record.split = split


def _hold_out(records: list[_Record], test_fraction: float) -> None:
    """A hash of the file's name decides, so that new files move no others.

    In a small folder that may leave a split empty; then the picture nearest to it goes there.
    """
    records.sort(key=_place)
    count = sum(_place(record) < test_fraction for record in records)
    if len(records) > 1 and 0 < test_fraction < 1:
        count = min(max(count, 1), len(records) - 1)
    for n, record in enumerate(records):
        record.split = "test" if n < count else "train"


def _place(record: _Record) -> float:
    """A number in [0, 1] that depends on the file's name alone."""
    digest = hashlib.sha256(record.file.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
