"""SSA-GAN whole, encoders, generator, discriminator and vocabulary: the model that a user saves and loads.

Source: Liao et al., *Text to Image Generation with Semantic-Spatial Aware GAN*, arXiv 2104.00567.
"""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from typing_extensions import Self

from .._files import written_whole
from .._hub import SHEET, check_facts, upload, write_card
from .._pretrained import VOCABULARY, JSONConfig, save_folder, saved_model
from .._weights import fill
from ..encoders import ConvImageEncoder, EncoderPair, InceptionImageEncoder, LSTMTextEncoder
from ..vocabulary import Vocabulary
from ._onnx import write_generator, write_text_encoder
from .dfgan import DFGenerator
from .discriminators import MatchingAwareDiscriminator
from .ratgan import RATGenerator
from .sampling import evaluating, noise
from .ssa_generator import SSAGenerator, SSAGeneratorOutput

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class SSAGANConfig(JSONConfig):
    """Everything that fixes the shapes of an :class:`SSAGAN`; round-trips through JSON.

    The defaults are the paper's model for 256 px (CUB vocabulary).

    Attributes:
        image_size: side of the pictures in px, a power of two from 16.
        ngf: base width of the generator.
        ndf: base width of the discriminator, or None for a model that only draws and has no discriminator.
        z_dim: length of the noise.
        cond_dim: length of the sentence, even.
        embed_dim: length of a word's embedding.
        mask_channels: hidden channels of the mask predictors, where the generator has masks.
        vocab_size: words in the vocabulary, index 0 included.
        max_words: a caption's longest length in words.
        image_encoder: ``"inception"`` (published, 299 px trunk), ``"conv"`` (small, for 32 to 128 px) or
            None. It is needed for the DAMSM loss and for R-precision, not for drawing.
        image_width: base width of the small image encoder, a multiple of 16.
        generator: whose it is: ``"ssa"``, ``"ssa-unmasked"`` (the same without masks), ``"df"`` (DF-GAN's code of
            2022) or ``"rat"`` (RAT-GAN).
        hidden_dim: width of the MLPs that turn the sentence into affine parameters, in SSA-GAN's generator. In a
            narrow one most weights are theirs.
        projection: whether the discriminator compares pictures with sentences by an inner product besides; see
            :class:`MatchingAwareDiscriminator`.

    Example:
        >>> config = SSAGANConfig(image_size=32, ngf=8, ndf=8, vocab_size=10)
        >>> SSAGANConfig.from_json(config.to_json()) == config
        True
    """

    image_size: int = 256
    ngf: int = 64
    ndf: int | None = 64
    z_dim: int = 100
    cond_dim: int = 256
    embed_dim: int = 300
    mask_channels: int = 100
    vocab_size: int = 5450
    max_words: int = 18
    image_encoder: Literal["inception", "conv"] | None = None
    image_width: int = 64
    generator: Literal["ssa", "ssa-unmasked", "df", "rat"] = "ssa"
    hidden_dim: int = 256
    projection: bool = False


def _generator(config: SSAGANConfig) -> SSAGenerator | DFGenerator | RATGenerator:
    sizes = config.image_size, config.ngf, config.z_dim, config.cond_dim
    if config.generator == "df":
        return DFGenerator(*sizes)
    if config.generator == "rat":
        return RATGenerator(*sizes)
    mask_channels = config.mask_channels if config.generator == "ssa" else 0
    return SSAGenerator(*sizes, mask_channels=mask_channels, hidden_dim=config.hidden_dim)


class SSAGAN(nn.Module):
    """Text encoder, generator, discriminator and image encoder with their vocabulary.

    The image encoder is there if the config asks for one, and the discriminator unless it says otherwise: drawing
    needs neither. ``config.generator`` puts DF-GAN's or RAT-GAN's generator in the place of SSA-GAN's, with
    everything around it the same; their pictures come without masks.

    Args:
        config: the sizes of its parts.
        vocabulary: words of the captions; needed by :meth:`generate` and :meth:`save_pretrained`. Its length
            must be ``config.vocab_size``.

    Shapes:
        N captions to images ``(N, 3, S, S)`` in [-1, 1] and masks ``(N, 1, s, s)``, s = 4, 8, ..., S
        (:meth:`generate`), or to sentence embeddings ``(N, D)`` (:meth:`encode`).

    Raises:
        ValueError: a vocabulary whose length is not the config's.

    Source: arXiv 2104.00567.

    Example:
        >>> vocabulary = Vocabulary.build(["a red circle", "a blue square"])
        >>> config = SSAGANConfig(
        ...     image_size=16, ngf=4, ndf=4, vocab_size=len(vocabulary)
        ... )
        >>> model = SSAGAN(config, vocabulary)
        >>> model.generate(["a blue circle"], seed=0).images.shape
        torch.Size([1, 3, 16, 16])
    """

    def __init__(self, config: SSAGANConfig, vocabulary: Vocabulary | None = None) -> None:
        super().__init__()
        if vocabulary is not None and len(vocabulary) != config.vocab_size:
            raise ValueError(
                f"the vocabulary must have config.vocab_size = {config.vocab_size} words, got "
                f"{len(vocabulary)}; is it the one the text encoder was trained with?"
            )
        self.config = config
        self.vocabulary = vocabulary
        self.text_encoder = LSTMTextEncoder(config.vocab_size, config.embed_dim, config.cond_dim)
        self.generator = _generator(config)
        self.discriminator: MatchingAwareDiscriminator | None = None
        if config.ndf is not None:
            self.discriminator = MatchingAwareDiscriminator(
                config.image_size, config.ndf, config.cond_dim, projection=config.projection
            )
        self.image_encoder: InceptionImageEncoder | ConvImageEncoder | None = None
        if config.image_encoder == "inception":
            self.image_encoder = InceptionImageEncoder(config.cond_dim)
        elif config.image_encoder == "conv":
            self.image_encoder = ConvImageEncoder(config.image_size, config.cond_dim, config.image_width)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.generator.fc.weight.device

    @property
    def mask_sides(self) -> list[int]:
        """Of the masks that :meth:`generate` returns, coarse to fine; empty for a generator without masks.

        Example:
            >>> SSAGAN(SSAGANConfig(32, ngf=4, ndf=4, vocab_size=9)).mask_sides
            [4, 8, 16, 32]
        """
        if self.config.generator != "ssa":
            return []
        return [2**i for i in range(2, self.config.image_size.bit_length())]

    @property
    def encoders(self) -> EncoderPair:
        """Text encoder, image encoder and vocabulary as a pair, for DAMSM; the encoders are this model's own.

        Raises:
            ValueError: the model has no image encoder.

        Example:
            >>> model = SSAGAN(
            ...     SSAGANConfig(32, ngf=4, ndf=4, vocab_size=9, image_encoder="conv")
            ... )
            >>> model.encoders.image_encoder is model.image_encoder
            True
        """
        if self.image_encoder is None:
            raise ValueError(
                "DAMSM needs an image encoder, got a model without one; "
                'set image_encoder="conv" or "inception" in its SSAGANConfig'
            )
        return EncoderPair(self.text_encoder, self.image_encoder, self.vocabulary, max_words=self.config.max_words)

    def take_encoders(self, pair: EncoderPair) -> None:
        """Make the encoders of ``pair`` this model's own, in place of those it was made with.

        Raises:
            ValueError: they have another vocabulary or number of features, or are for pictures of another size.

        Example:
            >>> model = SSAGAN(SSAGANConfig(32, ngf=4, ndf=4, vocab_size=9))
            >>> model.take_encoders(EncoderPair(LSTMTextEncoder(9), ConvImageEncoder(32)))
            >>> model.config.image_encoder
            'conv'
        """
        config = self.config
        if pair.vocabulary != self.vocabulary:
            raise ValueError("the encoders must have the model's vocabulary, got encoders of another one")
        if pair.text_encoder.cond_dim != config.cond_dim:
            raise ValueError(
                f"the encoders must have cond_dim = {config.cond_dim} features, got {pair.text_encoder.cond_dim}"
            )
        if pair.image_size not in (None, config.image_size):
            raise ValueError(
                f"the encoders must be for pictures of {config.image_size} px, got {pair.image_size} px"
            )
        self.config = replace(
            config,
            vocab_size=pair.text_encoder.embedding.num_embeddings,
            embed_dim=pair.text_encoder.embedding.embedding_dim,
            max_words=pair.max_words,
            image_encoder="conv" if isinstance(pair.image_encoder, ConvImageEncoder) else "inception",
            image_width=pair.image_encoder.width if isinstance(pair.image_encoder, ConvImageEncoder) else 64,
        )
        self.text_encoder, self.image_encoder = pair.text_encoder, pair.image_encoder

    @torch.no_grad()
    def generate(
        self,
        captions: Sequence[str],
        *,
        seed: int | None = None,
        z: Tensor | None = None,
        truncation: float | None = None,
        masks: Sequence[Tensor | None] | None = None,
        batch_size: int = 64,
    ) -> SSAGeneratorOutput:
        """Draw one picture per caption, with running statistics and without gradients.

        Args:
            captions: N sentences; words must be in the vocabulary.
            seed: of the noise, drawn on the CPU so that every device gets the same; None draws a fresh one.
            z: the noise itself, ``(N, z_dim)``, instead of ``seed``.
            truncation: draw noise from N(0, 1) cut to [-truncation, truncation]; > 0, typically 0.5 to 2.
                Smaller is more typical and less varied. None does not cut.
            masks: see :class:`SSAGenerator`.
            batch_size: how many pictures are drawn at a time, >= 1. It bounds the memory and, but for rounding,
                changes nothing.

        ``model.generator.compile(mode="reduce-overhead")`` before the first call makes torch compile the generator
        and, on a GPU, replay it as a CUDA graph; keep to one ``batch_size`` then.

        Returns:
            :class:`SSAGeneratorOutput`: images ``(N, 3, S, S)`` in [-1, 1], masks ``(N, 1, s, s)`` a block.

        Raises:
            ValueError: no vocabulary, a caption without words, an unknown word, ``z`` together with ``seed``
                or ``truncation``, a truncation that is not positive, or a ``batch_size`` below 1.

        Source: truncated noise, BigGAN, arXiv 1809.11096.

        Example:
            >>> vocabulary = Vocabulary.build(["a red circle"])
            >>> model = SSAGAN(
            ...     SSAGANConfig(16, ngf=4, ndf=4, vocab_size=len(vocabulary)), vocabulary
            ... )
            >>> first, second = (
            ...     model.generate(["red"], seed=3, truncation=1.0).images for _ in range(2)
            ... )
            >>> bool((first == second).all())
            True
        """
        if isinstance(captions, str):
            raise ValueError("captions must be a sequence of sentences, got one string; pass [caption]")
        if z is None:
            z = noise(len(captions), self.config.z_dim, seed, truncation)
        elif seed is not None or truncation is not None:
            raise ValueError("z is the noise itself; seed and truncation do not go with it")
        if masks and not self.mask_sides:
            raise ValueError(f"masks must be left out for a generator that has none, got {len(masks)}")
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        parts = []
        with evaluating(self):
            for start in range(0, max(len(captions), 1), batch_size):
                rows = slice(start, start + batch_size)
                given = [[None if mask is None else mask[rows] for mask in masks]] if masks else []
                with torch.inference_mode():
                    sentence = self.encode(captions[rows])
                    drawn = self.generator(z[rows].to(self.device, sentence.dtype), sentence, *given)
                    parts.append(SSAGeneratorOutput(drawn.images, drawn.masks if self.mask_sides else ()))
        # Joined outside of inference mode, so that the pictures may enter a graph.
        stages = zip(*(part.masks for part in parts), strict=True)
        return SSAGeneratorOutput(
            torch.cat([part.images for part in parts]), tuple(torch.cat(stage) for stage in stages)
        )

    def encode(self, captions: Sequence[str]) -> Tensor:
        """The sentences' embeddings ``(N, D)``; ValueError for unknown words or captions without any.

        Example:
            >>> vocabulary = Vocabulary.build(["a red circle"])
            >>> model = SSAGAN(
            ...     SSAGANConfig(16, ngf=4, ndf=4, vocab_size=len(vocabulary)), vocabulary
            ... )
            >>> model.encode(["a red circle", "red"]).shape
            torch.Size([2, 256])
        """
        if self.vocabulary is None:
            raise ValueError(
                "captions need a vocabulary, got none; make the model with SSAGAN(config, vocabulary)"
            )
        tokens, lengths = self.vocabulary.encode_batch(captions, max_words=self.config.max_words)
        return self.text_encoder(tokens.to(self.device), lengths).sentence

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        dtype: torch.dtype | None = None,
        card: Mapping[str, str] | None = None,
        sheet: Image.Image | None = None,
    ) -> None:
        """Write ``config.json``, ``vocabulary.json`` and ``model.safetensors`` into ``folder``.

        Each file is written under a temporary name and moved into place. Inception's frozen trunk is saved
        with the rest.

        Args:
            folder: made if it is missing.
            dtype: of the weights in the file: ``torch.float16`` halves it, and changes pictures by some 1e-4 of
                their range. They are computed in float32 all the same once they are loaded. None keeps them exact.
            card: facts for a model card, ``README.md``: any of ``data``, ``license`` (the Hub's word, such as
                ``"mit"``) and ``figures``, as Markdown, and ``command``, the lines that a shell runs. None writes
                no card.
            sheet: for the card, such as ``model.generate(captions, seed=0).sheet(captions)``; ``sheet.png``.

        Raises:
            ValueError: no vocabulary, since weights that no caption can reach are no model; weights that are
                no longer finite as ``dtype``; another fact than these; or a sheet without a card.

        Example:
            >>> import tempfile
            >>> vocabulary = Vocabulary.build(["a red circle"])
            >>> model = SSAGAN(
            ...     SSAGANConfig(16, ngf=4, ndf=4, vocab_size=len(vocabulary)), vocabulary
            ... )
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     model.save_pretrained(folder)
            ...     again = SSAGAN.from_pretrained(folder)
            >>> one, same = (m.generate(["red"], seed=0).images for m in (again, model))
            >>> torch.equal(one, same)
            True
        """
        check_facts(card or {})
        if card is None and sheet is not None:
            raise ValueError("a sheet is part of a card, got no card; pass card={...}")
        save_folder(folder, self, self.config, self.vocabulary, dtype=dtype)
        if card is not None and self.vocabulary is not None:
            if sheet is not None:
                with written_whole(Path(folder) / SHEET) as path:
                    sheet.save(path, "PNG")
            write_card(Path(folder), card, self.vocabulary.words[-1], sheet=sheet is not None)

    def push_to_hub(
        self,
        name: str,
        *,
        private: bool = False,
        dtype: torch.dtype | None = None,
        card: Mapping[str, str] | None = None,
        sheet: Image.Image | None = None,
    ) -> str:
        """Send what :meth:`save_pretrained` writes to the Hugging Face Hub. Needs the extra ``hub``, and a login.

        Args:
            name: of the repository, ``"user/repo"``; made if it is missing.
            private: of a repository that is made.
            dtype: see :meth:`save_pretrained`.
            card: likewise.
            sheet: likewise.

        Returns:
            The repository's address.

        Raises:
            ImportError: the extra ``hub`` is not installed.
            OSError: the Hub was not reached or refused; one sentence says why.
            ValueError: no name of a repository, or what :meth:`save_pretrained` refuses.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, dtype=dtype, card=card, sheet=sheet)
            return upload(Path(folder), name, private=private)

    def to_onnx(self, folder: str | os.PathLike[str], *, half: bool = False) -> list[Path]:
        """Write ``generator.onnx``, ``text_encoder.onnx`` and ``vocabulary.json`` into ``folder``.

        The text encoder takes ``tokens (N, T)`` int64 and ``lengths (N,)`` int32 to ``words (N, D, T)`` and
        ``sentence (N, D)``. The generator takes ``z (N, z_dim)``, ``sentence`` and a mask per stage, ``mask_4``,
        ``mask_8``, ... ``(N, 1, s, s)`` in [0, 1], to ``images`` and the masks used, ``used_mask_4``, ...; where a
        mask is negative, such as -1, the stage predicts its own. N and T are free. Needs the extra ``onnx``.

        Args:
            folder: made if it is missing.
            half: keep the weights in half precision; arithmetic stays in float32.

        Returns:
            The three files.

        Raises:
            ImportError: the extra ``onnx`` is not installed.
            ValueError: the model has no vocabulary.
        """
        if self.vocabulary is None:
            raise ValueError("a model is written with its vocabulary, got none; set model.vocabulary first")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / name for name in ("generator.onnx", "text_encoder.onnx", VOCABULARY)]
        with evaluating(self):
            write_generator(
                copy.deepcopy(self.generator).cpu(),
                files[0],
                z_dim=self.config.z_dim,
                cond_dim=self.config.cond_dim,
                mask_sides=self.mask_sides,
                half=half,
            )
            write_text_encoder(self.text_encoder, files[1], half=half)
        self.vocabulary.save(files[2])
        return files

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike[str], *, discriminator: bool = True, image_encoder: bool = True
    ) -> Self:
        """Read what :meth:`save_pretrained` wrote, on the CPU and in evaluation mode.

        Args:
            folder: of the model; or the name of one that comes with the package, such as ``"shapes32"``; or one
                of the Hugging Face Hub, ``"user/repo"`` (extra ``hub``). The first that is there is taken.
            discriminator: False leaves the discriminator out, which drawing does not need. Of the paper's model it
                is 78 of 108 million parameters.
            image_encoder: False leaves the image encoder out, which only DAMSM and R-precision need.

        Raises:
            FileNotFoundError: a file is missing, or there is neither such a folder nor a model of that name, also
                on the Hub or in its cache; the message says which.
            ImportError: a model of the Hub, and the extra ``hub`` is not installed.
            ValueError: files that do not belong together or are damaged; the message says how.
        """
        with saved_model(folder) as saved:
            config, weights = SSAGANConfig.from_json(saved.config), saved.weights
            if not discriminator:
                config = replace(config, ndf=None)
                weights = {key: value for key, value in weights.items() if not key.startswith("discriminator.")}
            if not image_encoder:
                config = replace(config, image_encoder=None)
                weights = {key: value for key, value in weights.items() if not key.startswith("image_encoder.")}
            with torch.device("meta"):
                model = cls(config, saved.vocabulary)
            return fill(model, weights)
