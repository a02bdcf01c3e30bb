"""Words and their indices: the vocabulary of a text encoder."""

from __future__ import annotations

import difflib
import json
import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, cast, get_args

import numpy as np
import torch
from torch import Tensor

from ._files import read_regular, shown, some, written_whole
from .words import Rule, Tokenizer, tokenize

END = "<end>"
MAX_BYTES = 2**28  # of a vocabulary's file


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
    """A caption has no word: it is empty, has neither letter nor digit, or its words are all unknown.

    Example:
        >>> try:
        ...     Vocabulary.build(["a red circle"]).encode("?!")
        ... except EmptyCaptionError as error:
        ...     print("refused")
        refused
    """


class Vocabulary:
    """Words and their indices. Index 0 is ``<end>``, which is also the padding.

    ``vocabulary[word]`` is the index of a word, ``vocabulary.words[index]`` the word of an index; ``len``,
    ``in``, iteration (over words, by index) and ``==`` are what they say.

    Args:
        words: the words by index; ``words[0]`` is ``"<end>"``, no word occurs twice.
        tokenizer: how captions are split into words: a rule of ``tokenize``, or a function of one's own from a
            caption to its words. ``"ascii"`` for the words of a published text encoder.

    Attributes:
        tokenizer: the argument. It may be set; a vocabulary that was saved with a function of one's own is loaded
            without it and needs it again.

    Raises:
        ValueError: the first word is not ``<end>``, a word occurs twice, or one is empty; or ``tokenizer`` is
            no rule.
        TypeError: a word is not a string.

    Example:
        >>> vocabulary = Vocabulary(["<end>", "a", "bird", "red"])
        >>> len(vocabulary), vocabulary["bird"], "blue" in vocabulary
        (4, 2, False)
        >>> vocabulary.encode("A red, red bird")
        [1, 3, 3, 2]
        >>> Vocabulary.build(["赤い鳥"], tokenizer="characters").words
        ('<end>', 'い', '赤', '鳥')
        >>> Vocabulary.build(["red-winged bird"], tokenizer=str.split).words
        ('<end>', 'bird', 'red-winged')
    """

    def __init__(self, words: Sequence[str], *, tokenizer: Rule | Tokenizer = "words") -> None:
        if isinstance(words, str):
            raise TypeError("words must be a sequence of strings, got one string; split it first")
        if not callable(tokenizer) and tokenizer not in get_args(Rule):
            raise ValueError(f"tokenizer must be one of {get_args(Rule)} or a function, got {shown(tokenizer)}")
        self.tokenizer: Rule | Tokenizer = tokenizer
        self.words: tuple[str, ...] = tuple(words)
        for index, word in enumerate(self.words):
            if not isinstance(word, str):
                raise TypeError(f"every word must be a string, got {type(word).__name__} at index {index}")
            if not word:
                raise ValueError(f"no word may be empty, got '' at index {index}")
        if not self.words or self.words[0] != END:
            raise ValueError(
                f"word 0 must be {END!r} (also the padding), got {shown(self.words[:1])}; put it before the others"
            )
        self._index = {word: index for index, word in enumerate(self.words)}
        if len(self._index) != len(self.words):
            twice = [word for word, count in Counter(self.words).items() if count > 1]
            raise ValueError(
                f"a word must have one index, got several for {some(twice, show=shown)}; remove the copies"
            )

    @classmethod
    def build(
        cls, captions: Iterable[str], *, min_count: int = 1, tokenizer: Rule | Tokenizer = "words"
    ) -> Vocabulary:
        """The vocabulary of some captions: ``<end>``, then their words in alphabetical order.

        The same captions give the same vocabulary, in whichever order they come.

        Args:
            captions: the captions, of every split the encoder will meet.
            min_count: words that occur less often are left out, >= 1.
            tokenizer: as the class.

        Raises:
            ValueError: ``min_count`` is below 1.
            EmptyCaptionError: no word is left.

        Example:
            >>> Vocabulary.build(["a red bird", "a blue bird"], min_count=2).words
            ('<end>', 'a', 'bird')
        """
        if min_count < 1:
            raise ValueError(f"min_count must be at least 1, got {min_count}")
        split = cls([END], tokenizer=tokenizer).tokenize
        counts = Counter(word for caption in captions for word in split(caption))
        words = sorted(word for word, count in counts.items() if count >= min_count)
        if not words:
            raise EmptyCaptionError(
                f"a vocabulary must have at least one word, got {len(counts)} words, none of which occurs "
                f"{min_count} times; give more captions or lower min_count"
            )
        return cls([END, *words], tokenizer=tokenizer)

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
        return isinstance(other, Vocabulary) and self.words == other.words and self.tokenizer == other.tokenizer

    def __hash__(self) -> int:
        return hash(self.words)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} words)"

    def tokenize(self, caption: str) -> list[str]:
        """The words of a caption, known or not, by this vocabulary's tokenizer.

        Raises:
            TypeError: the caption, or what a tokenizer of one's own made of it, is no text.
            ValueError: the vocabulary was saved with a tokenizer of one's own, which was not given again.

        Example:
            >>> Vocabulary(["<end>", "a"], tokenizer="ascii").tokenize("a blåbär")
            ['a', 'blbr']
        """
        if not isinstance(caption, str):
            raise TypeError(f"a caption must be a string, got {shown(caption)}; is one missing?")
        if not callable(self.tokenizer):
            return tokenize(caption, self.tokenizer)
        words = list(self.tokenizer(caption))
        if not all(isinstance(word, str) and word and word != END for word in words):
            raise TypeError(f"a tokenizer must give words, strings that are not empty, got {shown(words)}")
        return words

    def lost(self, caption: str) -> list[str]:
        """Words of a caption that the rule ``"ascii"`` leaves out or takes letters from; none by other rules.

        Example:
            >>> Vocabulary(["<end>", "a"], tokenizer="ascii").lost("a café for a 青い bird")
            ['café', '青い']
        """
        if self.tokenizer != "ascii" or caption.isascii():
            return []
        return [word for word in tokenize(caption) if not word.isascii()]

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
            caption: the caption; ``tokenizer`` decides what its words are.
            max_words: a longer caption keeps this many words, in their order, >= 1.
            rng: chooses which positions a longer caption keeps, as the family does in training, where letters
                outside ASCII may be lost too. None keeps the first ones, with a warning that quotes the rest.
            unknown: ``"error"`` raises for words the vocabulary lacks, and without ``rng`` for words that the
                rule ``"ascii"`` takes letters from; ``"drop"`` leaves both out with a warning that names them.

        Returns:
            1 to ``max_words`` indices in ``[1, len(vocabulary))``.

        Raises:
            UnknownWordError: a word is not in the vocabulary or would lose letters, with ``unknown="error"``.
            EmptyCaptionError: the caption has no word, or none that the vocabulary has.
            TypeError: the caption is no string.
            ValueError: ``max_words`` is below 1, or ``unknown`` is neither of the two.

        Source: AttnGAN, ``code/datasets.py``, ``get_caption``.

        Example:
            >>> vocabulary = Vocabulary.build(["a small red bird with a short bill"])
            >>> vocabulary.decode(
            ...     vocabulary.encode(
            ...         "a red bird with a short bill", rng=np.random.default_rng(0)
            ...     )
            ... )
            'a red bird with a short bill'
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
            captions: N >= 1 captions, a list or an array; the options are those of ``encode``.

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
            raise TypeError("captions must be a sequence of strings, got one string; wrap it in a list")
        if len(captions) == 0:
            raise ValueError("a batch must have at least one caption, got none")
        rows = self._encode(captions, max_words, rng, unknown)
        lengths = torch.tensor([len(row) for row in rows], device="cpu")
        tokens = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.int64, device="cpu")
        for n, row in enumerate(rows):
            tokens[n, : len(row)] = torch.tensor(row, device="cpu")
        return tokens, lengths

    def _encode(
        self, captions: Iterable[str], max_words: int, rng: np.random.Generator | None, unknown: str
    ) -> list[list[int]]:
        if max_words < 1:
            raise ValueError(f"max_words must be at least 1, got {max_words}")
        if unknown not in ("error", "drop"):
            raise ValueError(f'unknown must be "error" or "drop", got {unknown!r}')
        captions = list(captions)
        words = [self.tokenize(caption) for caption in captions]
        missing = sorted({word for row in words for word in row} - self._index.keys())
        lost = sorted({word for caption in captions for word in self.lost(caption)} if rng is None else ())
        if (missing or lost) and unknown == "error":
            raise UnknownWordError(self._unknown_message(missing, lost))
        if missing or lost:
            parts = " and letters of ".join(some(part, show=shown) for part in (missing, lost) if part)
            warnings.warn(f"left out words that the vocabulary lacks: {parts}", stacklevel=3)
        rows, cut = [], []
        for caption, row in zip(captions, words, strict=True):
            ids = [self._index[word] for word in row if word in self._index]
            if not ids:
                raise EmptyCaptionError(
                    f"a caption must have at least one {'known ' if row else ''}word ({self._what_is_a_word()}), "
                    f"got {shown(caption)}"
                )
            if len(ids) > max_words:
                if rng is None:
                    cut.append(" ".join(self.words[word] for word in ids[max_words:]))
                kept = range(max_words) if rng is None else np.sort(rng.permutation(len(ids))[:max_words])
                ids = [ids[position] for position in kept]
            rows.append(ids)
        if cut:
            what = "1 caption has" if len(cut) == 1 else f"{len(cut)} captions have"
            rests = some([repr(rest) for rest in cut], most=5, width=200)
            warnings.warn(f"{what} more than {max_words} words; left out: {rests}", stacklevel=3)
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
                    f"an index must lie in [0, {len(self)}), got {index}; is this the encoder's vocabulary?"
                )
            if index == 0:
                break
            words.append(self.words[index])
        return " ".join(words)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write words and tokenizer as JSON; an interrupted write leaves the former file whole.

        The file is an object with ``"tokenizer"``, the rule's name or ``"own"``, and the list ``"words"``.

        Example:
            >>> import tempfile
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     Vocabulary(["<end>", "a"]).save(f"{folder}/vocabulary.json")
            ...     Vocabulary.load(f"{folder}/vocabulary.json").words
            ('<end>', 'a')
        """
        rule = self.tokenizer if isinstance(self.tokenizer, str) else _OWN
        content = json.dumps({"tokenizer": rule, "words": self.words}, indent=0, ensure_ascii=False)
        with written_whole(path) as temporary:
            temporary.write_text(content + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, tokenizer: Tokenizer | None = None) -> Vocabulary:
        """Read what ``save`` wrote. A plain list of words, as written before, has the rule ``"ascii"``.

        Args:
            path: the file.
            tokenizer: the function that the vocabulary was made with, if it was one's own; it may also be set
                later, as the attribute ``tokenizer``.

        Raises:
            OSError: the file cannot be read.
            ValueError: it holds no words that make a vocabulary, or has a tokenizer of its own and another one was
                given; the message names the file.
        """
        content = read_regular(path, MAX_BYTES)
        try:
            found = json.loads(content.decode("utf-8"))
            if isinstance(found, list):
                found = {"tokenizer": "ascii", "words": found}
            if not (isinstance(found, dict) and isinstance(found.get("words"), list)):
                raise TypeError(f"it must hold a list of words, got {shown(found)}")
            rule = found.get("tokenizer")
            if tokenizer is not None and rule != _OWN:
                raise ValueError(f"its tokenizer is {shown(rule)}, so none must be given")
            return cls(found["words"], tokenizer=tokenizer or _not_given if rule == _OWN else cast(Rule, rule))
        except (ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{os.fspath(path)} is not a vocabulary: {error}") from error

    def _what_is_a_word(self) -> str:
        if callable(self.tokenizer):
            return "by its own tokenizer"
        return "ASCII letters and digits" if self.tokenizer == "ascii" else "letters or digits"

    def _unknown_message(self, words: Sequence[str], lost: Sequence[str] = ()) -> str:
        def with_near(word: str) -> str:
            # Nobody's word is longer, and comparing takes as long as both words are.
            near = difflib.get_close_matches(word, self.words[1:], n=3, cutoff=0.75) if len(word) <= 40 else []
            return f"{shown(word, 40)} (near: {', '.join(map(repr, near))})" if near else shown(word, 40)

        said = []
        if words:
            named = some(words, width=200, show=with_near)
            said.append(
                f"every word must be one of the vocabulary's {len(self)}, got {named}; "
                "correct the caption or leave such words out"
            )
        if lost:
            said.append(
                "the vocabulary has words of ASCII letters and digits alone, as published text encoders have, got "
                f"{some(lost, show=shown)}, which would lose letters; write such words in ASCII or leave them out"
            )
        return "; ".join(said)


_OWN = "own"  # the tokenizer of a file whose vocabulary had a function


def _not_given(caption: str) -> list[str]:
    raise ValueError(
        "this vocabulary was saved with a tokenizer of its own; set vocabulary.tokenizer to the function that it "
        "was made with"
    )
