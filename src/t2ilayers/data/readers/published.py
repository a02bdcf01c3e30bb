"""What the readers of published data sets share: the request, pictures by name, and so many captions of each."""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Sequence
from pathlib import Path, PurePosixPath

from ..._files import shown
from ...vocabulary import Vocabulary
from .listing import WITHOUT_CAPTION, LeftOut, nul_problem, with_words
from .names import Tree, is_file, is_folder


def check_request(root: str | os.PathLike[str], split: str, captions_per_image: int | None) -> Path:
    """The root as a path, after a check of the arguments that every published data set has.

    Raises:
        NotADirectoryError: ``root`` is no folder.
        ValueError: ``split`` is neither ``"train"`` nor ``"test"``, or ``captions_per_image`` is below 1.

    Example:
        >>> check_request(".", "train", 10)
        PosixPath('.')
    """
    if split not in ("train", "test"):
        raise ValueError(f'split must be "train" or "test", got {shown(split)}')
    if captions_per_image is not None and captions_per_image < 1:
        raise ValueError(f"captions_per_image must be at least 1, got {captions_per_image}")
    if not is_folder(Path(root)):
        raise NotADirectoryError(
            f"root must be the folder of a published data set, got {shown(os.fspath(root), 300)}"
        )
    return Path(root)


def find_picture(tree: Tree, name: str, folders: Sequence[Path], problems: list[str]) -> Path:
    """The first file of that name in some folders; where there is none, that is a problem.

    Example:
        >>> problems = []
        >>> _ = find_picture(
        ...     Tree(Path(".")), "a.jpg", [Path("images"), Path("train2014")], problems
        ... )
        >>> problems
        ["'a.jpg': there is no such picture in images, train2014"]
    """
    for folder in folders:
        if is_file(folder / name):
            if problem := tree.problem(folder / name):
                problems.append(f"{shown(name)}: {problem}")
            return folder / name
    problems.append(f"{shown(name)}: there is no such picture in {', '.join(map(str, folders))}")
    return folders[0] / name


def choose_captions(
    key: str,
    captions: Sequence[str],
    count: int,
    vocabulary: Vocabulary,
    exactly: bool,
    problems: list[str],
    left_out: LeftOut,
) -> tuple[str, ...]:
    """The first ``count`` captions with a word, each on one line; a NUL is a problem.

    Fewer are a problem with ``exactly``; without, a picture that has none is left out.

    Example:
        >>> words, problems = Vocabulary(["<end>"]), []
        >>> choose_captions(
        ...     "a",
        ...     ["a\\nbird ", "", "!", "a crow", "a tit"],
        ...     2,
        ...     words,
        ...     True,
        ...     problems,
        ...     LeftOut(),
        ... )
        ('a bird', 'a crow')
    """
    where = shown(key)
    usable = with_words(filter(str.strip, captions), vocabulary, where, left_out, by_rule=True)
    chosen = usable[:count]
    if len(usable) > count:
        kind = f"{{count}} captions after the first {count} of their pictures: {{names}}"
        left_out.add(kind, where, len(usable) - count, by_rule=True)
    if len(chosen) < count and exactly:
        problems.append(
            f"{where}: {len(chosen)} captions with a word, must be captions_per_image = {count}; add captions or "
            "lower it"
        )
    elif not chosen:
        left_out.add(WITHOUT_CAPTION, where)
    problems += nul_problem(chosen, where)
    return chosen


def note_unlisted(root: Path, folders: Iterable[Path], known: Container[str], left_out: LeftOut) -> None:
    """Note the files of some folders that belong to no name, given without suffix.

    Example:
        >>> note_unlisted(Path("."), [Path("nowhere")], {"a"}, LeftOut())
    """
    for folder in dict.fromkeys(folder for folder in folders if folder.is_dir()):
        for file in Tree(folder).walk([])[0]:
            name = PurePosixPath(file).with_suffix("")
            if str(name) not in known and name.name not in known:
                left_out.add(
                    "{count} files that no list names: {names}", shown(str(folder.relative_to(root) / file))
                )
