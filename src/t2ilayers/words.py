"""How captions are split into words: by Unicode's letters, by characters, or as the AttnGAN family does."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

Rule: TypeAlias = Literal["words", "characters", "ascii"]
Tokenizer: TypeAlias = Callable[[str], Sequence[str]]


def tokenize(caption: str, rule: Rule = "words") -> list[str]:
    r"""Split a caption into words, in lower case and in Unicode's composed form (NFC).

    - ``"words"``: every run of letters, digits, underscores and the marks that belong to them (accents, vowel
      signs), of any script; and every pictograph, such as an emoji, by itself. All else separates words.
    - ``"characters"``: the same, with each character a word of its own, together with its marks: for languages
      that are written without spaces.
    - ``"ascii"``: the AttnGAN family's rule, which published vocabularies and text encoders need. The matches of
      ``\w+``, without their characters outside ASCII; words that thereby become empty are dropped.

    Args:
        caption: any string.
        rule: one of the three.

    Returns:
        The words in order; empty where the caption has none.

    Source: AttnGAN, ``code/datasets.py`` (``RegexpTokenizer(r"\w+")``), for ``"ascii"``.

    Example:
        >>> tokenize("This bird\ufffd\ufffds crown is RED, its bill: 2-toned.")
        ['this', 'bird', 's', 'crown', 'is', 'red', 'its', 'bill', '2', 'toned']
        >>> (
        ...     tokenize("une cr\u00eape"),
        ...     tokenize("une cr\u00eape", "ascii"),
        ...     tokenize("\u5bff\u53f8", "characters"),
        ... )
        (['une', 'crêpe'], ['une', 'crpe'], ['寿', '司'])
    """
    if rule != "characters" and caption.isascii():
        return re.findall(r"\w+", caption.lower())
    caption = _composed(_composed(caption).lower())
    if rule == "ascii":
        words = (word.encode("ascii", "ignore").decode() for word in re.findall(r"\w+", caption))
        return [word for word in words if word]
    clusters = _clusters(caption.translate(_IGNORED))
    if rule == "characters":
        return [cluster.rstrip(_JOINERS) for cluster in clusters if cluster]
    apart = (f" {cluster} " if not cluster or _is_pictograph(cluster) else cluster for cluster in clusters)
    return [word.rstrip(_JOINERS) for word in "".join(apart).split()]


_MOST_MARKS = 30  # on a character, as in Unicode's stream-safe text; no language has as many


def _composed(text: str) -> str:
    """In NFC. To order a character's marks takes the square of their number, so what is too many is left out."""
    if text.isascii():
        return text
    kept, marks = [], 0
    for character in text:
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks <= _MOST_MARKS:
            kept.append(character)
    return unicodedata.normalize("NFC", "".join(kept))


_JOINERS = "\u200c\u200d"  # hold the letters of a word apart or together, in Persian and in Indian scripts
# Soft hyphen, byte order mark, and what chooses among the looks of a character.
_IGNORED = dict.fromkeys([0xAD, 0xFEFF, *range(0xFE00, 0xFE10)])


def _clusters(caption: str) -> list[str]:
    """The characters of words, each with the marks behind it, and ``""`` for what separates words."""
    clusters: list[str] = []
    marks: list[str] = []  # of the last one, which would be copied for each of them
    for character in f"{caption} ":
        letter = character == "_" or character.isalnum() or _is_pictograph(character)
        if letter or (unicodedata.category(character)[0] != "M" and character not in _JOINERS):
            if marks:
                clusters[-1] += "".join(marks)
                marks = []
            clusters.append(character if letter else "")
        elif clusters and clusters[-1] and not _is_pictograph(clusters[-1][0]):
            marks.append(character)
    return clusters


def _is_pictograph(character: str) -> bool:
    """Emoji and their like, but neither signs such as the degree's nor U+FFFD, which stands for lost text."""
    return (
        len(character) == 1
        and unicodedata.category(character) == "So"
        and ("\u2190" <= character < "\ufff0" or character > "\uffff")
    )
