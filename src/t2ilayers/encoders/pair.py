"""A text encoder, an image encoder and their vocabulary: trained, saved and asked as one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import Self

from .._pretrained import JSONConfig, save_folder, saved_model
from .._weights import fill
from ..vocabulary import Vocabulary
from .image import ConvImageEncoder, InceptionImageEncoder
from .text import LSTMTextEncoder

_PARTS = ("text_encoder.", "image_encoder.")


@dataclass(frozen=True)
class _Config(JSONConfig):
    """Sizes of a pair. Names and meanings are those of a model's config, from which a pair is read as well."""

    image_encoder: Literal["inception", "conv"]
    vocab_size: int
    image_size: int | None = None  # of the pictures, where the encoder takes no other
    image_width: int = 64
    embed_dim: int = 300
    cond_dim: int = 256
    max_words: int = 18


class EncoderPair(nn.Module):
    r"""A text and an image encoder that map captions and pictures to the same space, with their vocabulary.

    The pair is what :class:`~t2ilayers.training.EncoderStep` trains, what the DAMSM loss of a generator and
    R-precision ask, and what is saved for others to use.

    Args:
        text_encoder: of D features.
        image_encoder: of as many.
        vocabulary: words of the captions, one for each embedding; needed by :meth:`sentences` and
            :meth:`save_pretrained`.
        max_words: a caption's longest length in words, >= 1.

    Shapes:
        N captions to ``(N, D)`` (:meth:`sentences`), pictures ``(N, 3, H, W)`` in [-1, 1] to ``(N, D)``
        (:meth:`images`). A picture and its caption are alike if the cosine of the two is large.

    Raises:
        ValueError: encoders of different D, or a vocabulary of another length than the text encoder's.

    Source: Xu et al., AttnGAN, arXiv 1711.10485, section 3.2.

    Example:
        >>> vocabulary = Vocabulary.build(["a red circle", "a blue square"])
        >>> pair = EncoderPair(
        ...     LSTMTextEncoder(len(vocabulary)), ConvImageEncoder(32), vocabulary
        ... )
        >>> (
        ...     pair.sentences(["a red square"]).shape,
        ...     pair.images(torch.zeros(1, 3, 32, 32)).shape,
        ... )
        (torch.Size([1, 256]), torch.Size([1, 256]))
    """

    def __init__(
        self,
        text_encoder: LSTMTextEncoder,
        image_encoder: InceptionImageEncoder | ConvImageEncoder,
        vocabulary: Vocabulary | None = None,
        *,
        max_words: int = 18,
    ) -> None:
        super().__init__()
        if text_encoder.cond_dim != image_encoder.cond_dim:
            raise ValueError(
                "both encoders must have as many features, got "
                f"{text_encoder.cond_dim} of the text and {image_encoder.cond_dim} of the image encoder"
            )
        words = text_encoder.embedding.num_embeddings
        if vocabulary is not None and len(vocabulary) != words:
            raise ValueError(
                f"the vocabulary must have a word for each of {words} embeddings, got {len(vocabulary)}; is it "
                "the one the text encoder was trained with?"
            )
        self.text_encoder = text_encoder
        self.image_encoder = image_encoder
        self.vocabulary = vocabulary
        self.max_words = max_words

    @property
    def image_size(self) -> int | None:
        """Side of the pictures that the image encoder takes; None where it takes any."""
        return self.image_encoder.image_size if isinstance(self.image_encoder, ConvImageEncoder) else None

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.text_encoder.embedding.weight.device

    def sentences(self, captions: Sequence[str]) -> Tensor:
        """Features ``(N, D)`` of captions; ValueError for unknown words or captions without any."""
        if self.vocabulary is None:
            raise ValueError("captions need a vocabulary, got none; make the pair with one")
        tokens, lengths = self.vocabulary.encode_batch(captions, max_words=self.max_words)
        return self.text_encoder(tokens.to(self.device), lengths).sentence

    def images(self, images: Tensor) -> Tensor:
        """Features ``(N, D)`` of pictures ``(N, 3, H, W)`` in [-1, 1]."""
        return self.image_encoder(images.to(self.device)).code

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write ``config.json``, ``vocabulary.json`` and ``model.safetensors`` into ``folder``.

        Each file is written whole or not at all. Inception's frozen trunk is saved with the rest.

        Raises:
            ValueError: the pair has no vocabulary.

        Example:
            >>> import tempfile
            >>> vocabulary = Vocabulary.build(["a red circle", "a blue square"])
            >>> pair = EncoderPair(
            ...     LSTMTextEncoder(len(vocabulary)), ConvImageEncoder(32), vocabulary
            ... )
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     pair.save_pretrained(folder)
            ...     again = EncoderPair.from_pretrained(folder)
            >>> bool((again.sentences(["red"]) == pair.eval().sentences(["red"])).all())
            True
        """
        text, image = self.text_encoder, self.image_encoder
        config = _Config(
            image_encoder="conv" if isinstance(image, ConvImageEncoder) else "inception",
            vocab_size=text.embedding.num_embeddings,
            image_size=self.image_size,
            image_width=image.width if isinstance(image, ConvImageEncoder) else 64,
            embed_dim=text.embedding.embedding_dim,
            cond_dim=text.cond_dim,
            max_words=self.max_words,
        )
        save_folder(folder, self, config, self.vocabulary)

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str]) -> Self:
        """Read what :meth:`save_pretrained` wrote, on the CPU and in evaluation mode.

        The folder of a whole model will do as well, if it has both encoders; its other parts are not read.

        Raises:
            FileNotFoundError: a file is missing; the message names it.
            ValueError: files that do not belong together or are damaged, or a model without an image encoder; the
                message says how.
        """
        with saved_model(folder) as saved:
            weights = {key: value for key, value in saved.weights.items() if key.startswith(_PARTS)}
            config = _Config.from_json(saved.config, others=len(weights) < len(saved.weights))
            with torch.device("meta"):
                text = LSTMTextEncoder(config.vocab_size, config.embed_dim, config.cond_dim)
                image = (
                    InceptionImageEncoder(config.cond_dim)
                    if config.image_encoder == "inception"
                    else ConvImageEncoder(config.image_size or 0, config.cond_dim, config.image_width)
                )
            return fill(cls(text, image, saved.vocabulary, max_words=config.max_words), weights)
