"""Words and their indices: the tokenizer of the AttnGAN family, and the vocabulary of a text encoder."""

from __future__ import annotations

import difflib
import json
import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

END = "<end>"


class UnknownWordError(ValueError):
    """A caption has words that the vocabulary lacks; the message names them and words that come near.

    Example:
        >>> try:
        ...     Vocabulary.build(["a red circle"]).encode("a red circel")
        ... except UnknownWordError as error:
        ...     "'circel'" in str(error), "circle" in str(error)
        (True, True)
    """


class EmptyCaptionError(ValueError):
    """A caption has no word: it is empty, has no ASCII letter or digit, or its words are all unknown.

    Example:
        >>> try:
        ...     Vocabulary.build(["a red circle"]).encode("?!")
        ... except EmptyCaptionError as error:
        ...     print("refused")
        refused
    """


def tokenize(caption: str) -> list[str]:
    r"""Split a caption into words by the family's rule.

    Lower case, then ``re.findall(r"\w+", ...)``, then every character that is not ASCII is left out and
    words that thereby become empty are dropped. U+FFFD, which stands in the family's files for quotation
    marks that were lost, separates words, as does everything else that is not ``\w``.

    Args:
        caption: any string.

    Returns:
        The words in order; empty where the caption has none.

    Source: AttnGAN, ``code/datasets.py`` (``RegexpTokenizer(r"\w+")``).

    Example:
        >>> tokenize("This bird\ufffd\ufffds crown is RED, its bill: 2-toned.")
        ['this', 'bird', 's', 'crown', 'is', 'red', 'its', 'bill', '2', 'toned']
        >>> tokenize("une cr\u00eape \u5bff\u53f8")
        ['une', 'crpe']
    """
    ascii_words = (word.encode("ascii", "ignore").decode() for word in re.findall(r"\w+", caption.lower()))
    return [word for word in ascii_words if word]


class Vocabulary:
    """Words and their indices. Index 0 is ``<end>``, which is also the padding.

    ``vocabulary[word]`` is the index of a word, ``vocabulary.words[index]`` the word of an index; ``len``,
    ``in``, iteration (over words, by index) and ``==`` are what they say.

    Args:
        words: the words by index; ``words[0]`` is ``"<end>"``, no word occurs twice.

    Raises:
        ValueError: the first word is not ``<end>``, a word occurs twice, or one is empty.
        TypeError: a word is not a string.

    Example:
        >>> vocabulary = Vocabulary(["<end>", "a", "bird", "red"])
        >>> len(vocabulary), vocabulary["bird"], "blue" in vocabulary
        (4, 2, False)
        >>> vocabulary.encode("A red, red bird")
        [1, 3, 3, 2]
    """

    def __init__(self, words: Sequence[str]) -> None:
        if isinstance(words, str):
            raise TypeError("words is a sequence of strings, got one string; split it first")
        self.words: tuple[str, ...] = tuple(words)
        for index, word in enumerate(self.words):
            if not isinstance(word, str):
                raise TypeError(f"every word is a string, got {type(word).__name__} at index {index}")
            if not word:
                raise ValueError(f"no word is empty, got '' at index {index}")
        if not self.words or self.words[0] != END:
            raise ValueError(
                f"word 0 is {END!r} (also the padding), got {self.words[:1]}; put it before the others"
            )
        self._index = {word: index for index, word in enumerate(self.words)}
        if len(self._index) != len(self.words):
            twice = [word for word, count in Counter(self.words).items() if count > 1]
            raise ValueError(f"a word has one index, got several for {_listed(twice)}; remove the copies")

    @classmethod
    def build(cls, captions: Iterable[str], *, min_count: int = 1) -> Vocabulary:
        """The vocabulary of some captions: ``<end>``, then their words in alphabetical order.

        The same captions give the same vocabulary, in whichever order they come.

        Args:
            captions: the captions, of every split the encoder will meet.
            min_count: words that occur less often are left out, >= 1.

        Raises:
            ValueError: ``min_count`` is below 1.
            EmptyCaptionError: no word is left.

        Example:
            >>> Vocabulary.build(["a red bird", "a blue bird"], min_count=2).words
            ('<end>', 'a', 'bird')
        """
        if min_count < 1:
            raise ValueError(f"min_count is at least 1, got {min_count}")
        counts = Counter(word for caption in captions for word in tokenize(caption))
        words = sorted(word for word, count in counts.items() if count >= min_count)
        if not words:
            raise EmptyCaptionError(
                f"a vocabulary has at least one word, got {len(counts)} different words of which none occurs "
                f"{min_count} times; give more captions or lower min_count"
            )
        return cls([END, *words])

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._index

    def __iter__(self) -> Iterator[str]:
        return iter(self.words)

    def __getitem__(self, word: str) -> int:
        if word not in self._index:
            raise UnknownWordError(self._unknown_message([word]))
        return self._index[word]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.words == other.words

    def __hash__(self) -> int:
        return hash(self.words)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} words)"

    def encode(
        self,
        caption: str,
        *,
        max_words: int = 18,
        rng: np.random.Generator | None = None,
        unknown: Literal["error", "drop"] = "error",
    ) -> list[int]:
        """Word indices of a caption, at most ``max_words`` of them.

        Args:
            caption: the caption; ``tokenize`` says what its words are.
            max_words: a longer caption keeps this many words, in their order, >= 1.
            rng: chooses which positions a longer caption keeps (the family's rule for training); None keeps
                the first ones.
            unknown: ``"error"`` raises for words the vocabulary lacks, ``"drop"`` leaves them out with a
                warning that names them.

        Returns:
            1 to ``max_words`` indices in ``[1, len(vocabulary))``.

        Raises:
            UnknownWordError: a word is not in the vocabulary, with ``unknown="error"``.
            EmptyCaptionError: the caption has no word, or none that the vocabulary has.
            ValueError: ``max_words`` is below 1, or ``unknown`` is neither of the two.

        Source: AttnGAN, ``code/datasets.py``, ``get_caption``.

        Example:
            >>> vocabulary = Vocabulary.build(["a small red bird with a short bill"])
            >>> vocabulary.decode(vocabulary.encode("a red bird with a red bill", max_words=3))
            'a red bird'
            >>> vocabulary.encode("a redd bird")
            Traceback (most recent call last):
                ...
            t2ilayers.vocabulary.UnknownWordError: ... 'redd' (near: 'red')...
        """
        return self._encode([caption], max_words, rng, unknown)[0]

    def encode_batch(
        self,
        captions: Sequence[str],
        *,
        max_words: int = 18,
        rng: np.random.Generator | None = None,
        unknown: Literal["error", "drop"] = "error",
    ) -> tuple[Tensor, Tensor]:
        """``encode`` for several captions, padded with 0 to the longest.

        Args:
            captions: N >= 1 captions; the options are those of ``encode``.

        Returns:
            ``tokens (N, T)`` and ``lengths (N,)``, both int64; T is the largest length.

        Raises:
            ValueError: there is no caption, and all that ``encode`` raises; a caption is quoted.

        Example:
            >>> vocabulary = Vocabulary(["<end>", "a", "bird", "red"])
            >>> tokens, lengths = vocabulary.encode_batch(["a bird", "a red bird"])
            >>> tokens.tolist(), lengths.tolist()
            ([[1, 2, 0], [1, 3, 2]], [2, 3])
        """
        if isinstance(captions, str):
            raise TypeError("captions is a sequence of strings, got one string; wrap it in a list")
        if not captions:
            raise ValueError("a batch has at least one caption, got none")
        rows = self._encode(captions, max_words, rng, unknown)
        lengths = torch.tensor([len(row) for row in rows])
        tokens = torch.zeros(len(rows), int(lengths.max()), dtype=torch.int64)
        for n, row in enumerate(rows):
            tokens[n, : len(row)] = torch.tensor(row)
        return tokens, lengths

    def _encode(
        self, captions: Sequence[str], max_words: int, rng: np.random.Generator | None, unknown: str
    ) -> list[list[int]]:
        if max_words < 1:
            raise ValueError(f"max_words is at least 1, got {max_words}")
        if unknown not in ("error", "drop"):
            raise ValueError(f'unknown is "error" or "drop", got {unknown!r}')
        words = [tokenize(caption) for caption in captions]
        missing = sorted({word for row in words for word in row} - self._index.keys())
        if missing and unknown == "error":
            raise UnknownWordError(self._unknown_message(missing))
        if missing:
            warnings.warn(f"left out words that the vocabulary lacks: {_listed(missing)}", stacklevel=3)
        rows = []
        for caption, row in zip(captions, words, strict=True):
            ids = [self._index[word] for word in row if word in self._index]
            if not ids:
                raise EmptyCaptionError(
                    f"a caption has at least one {'known ' if row else ''}word (ASCII letters and digits), "
                    f"got {caption!r}"
                )
            if len(ids) > max_words:
                kept = range(max_words) if rng is None else np.sort(rng.permutation(len(ids))[:max_words])
                ids = [ids[position] for position in kept]
            rows.append(ids)
        return rows

    def decode(self, ids: Iterable[int]) -> str:
        """The words of some indices, joined by spaces, up to the first 0.

        Raises:
            ValueError: an index outside ``[0, len(vocabulary))``.

        Example:
            >>> Vocabulary(["<end>", "a", "bird"]).decode([1, 2, 0, 0])
            'a bird'
        """
        words: list[str] = []
        for index in map(int, ids):
            if not 0 <= index < len(self):
                raise ValueError(
                    f"an index lies in [0, {len(self)}), got {index}; is this the encoder's vocabulary?"
                )
            if index == 0:
                break
            words.append(self.words[index])
        return " ".join(words)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the words as a JSON list; an interrupted write leaves the former file whole.

        Example:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     Vocabulary(["<end>", "a"]).save(f"{folder}/vocabulary.json")
            ...     Vocabulary.load(f"{folder}/vocabulary.json").words
            ('<end>', 'a')
        """
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            temporary.write_text(json.dumps(self.words, indent=0) + "\n", encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Vocabulary:
        """Read what ``save`` wrote.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is not a JSON list of words that makes a vocabulary; the message names the file.
        """
        text = Path(path).read_bytes()
        try:
            words = json.loads(text.decode("utf-8"))
            if not isinstance(words, list):
                raise TypeError(f"the file holds a JSON list of words, got {type(words).__name__}")
            return cls(words)
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{os.fspath(path)} is not a vocabulary: {error}") from error

    def _unknown_message(self, words: Sequence[str]) -> str:
        def with_near(word: str) -> str:
            near = difflib.get_close_matches(word, self.words[1:], n=3, cutoff=0.75)
            return f"{word!r} (near: {', '.join(map(repr, near))})" if near else repr(word)

        return (
            f"every word is one of the vocabulary's {len(self)}, got {_listed(words, with_near)}; correct "
            "the caption or leave such words out"
        )


def _listed(words: Sequence[str], show: Callable[[str], str] = repr, most: int = 10) -> str:
    more = f" (+{len(words) - most} more)" if len(words) > most else ""
    return ", ".join(show(word) for word in words[:most]) + more
