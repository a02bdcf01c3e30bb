"""The DAMSM text encoder: a bidirectional LSTM over word embeddings."""

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ..ops._torch import exportable

__all__ = ["LSTMTextEncoder", "TextFeatures"]


@exportable
class TextFeatures(NamedTuple):
    """What a text encoder returns.

    ``words (N, D, T)``: one vector per word, zeros after the end of the caption. ``sentence (N, D)``.

    Example:
        >>> import torch
        >>> from t2ilayers.encoders import TextFeatures
        >>> TextFeatures(
        ...     words=torch.zeros(4, 256, 18), sentence=torch.zeros(4, 256)
        ... ).sentence.shape
        torch.Size([4, 256])
    """

    words: Tensor
    sentence: Tensor


class LSTMTextEncoder(nn.Module):
    r"""Word and sentence features of tokenised captions.

    ``embedding -> dropout -> bidirectional LSTM``, ``D/2`` units each way. ``words[:, :, t]`` is the output
    of both directions at word ``t``; ``sentence`` is the last hidden state of both, the forward direction
    first. The end of a caption is where its length says: padding never reaches the LSTM, so features do not
    depend on ``T`` or on what the padding holds.

    Args:
        vocab_size: number of tokens; index 0 is ``<end>`` and the padding in the published vocabularies.
        embed_dim: width of a word embedding.
        cond_dim: ``D``, even and positive.
        dropout: probability of dropping an embedding value in training mode, in ``[0, 1]``.

    Shapes:
        tokens ``(N, T)`` int64 in ``[0, vocab_size)``; lengths ``(N,)`` integer in ``[1, T]``, in any order.
        Returns :class:`TextFeatures`: words ``(N, D, T)``, sentence ``(N, D)``.

    Lengths may be on any device; packing reads them on the host, so lengths on the CPU spare a
    synchronisation. The range of the tokens is checked only when they are on the CPU: on a GPU the check
    would wait for the device in every step, and the embedding kernel itself stops there on an index out of
    range.

    Raises:
        ValueError: a setting or a shape breaks the rules above, a length is outside ``[1, T]``, or a token is
            outside ``[0, vocab_size)``.
        TypeError: tokens are not int64, or lengths are not integers.

    Source: Xu et al., AttnGAN, arXiv 1711.10485, section 3.2 ("The text encoder").

    Example:
        >>> import torch
        >>> from t2ilayers.encoders import LSTMTextEncoder
        >>> encoder = LSTMTextEncoder(vocab_size=60, cond_dim=32).eval()
        >>> words, sentence = encoder(
        ...     torch.tensor([[5, 9, 0], [7, 2, 4]]), torch.tensor([2, 3])
        ... )
        >>> words.shape, sentence.shape, bool((words[0, :, 2] == 0).all())
        (torch.Size([2, 32, 3]), torch.Size([2, 32]), True)
    """

    def __init__(self, vocab_size: int, embed_dim: int = 300, cond_dim: int = 256, dropout: float = 0.5) -> None:
        super().__init__()
        if vocab_size < 1 or embed_dim < 1:
            raise ValueError(
                f"vocab_size and embed_dim must be at least 1, got {vocab_size} and {embed_dim}; "
                "for a Vocabulary pass its length"
            )
        if cond_dim < 2 or cond_dim % 2:
            raise ValueError(
                f"cond_dim must be even and at least 2, of which each direction of the LSTM gives half, "
                f"got {cond_dim}; use {max(2, cond_dim + cond_dim % 2)}"
            )
        self.cond_dim = cond_dim
        self.embedding = nn.Embedding(vocab_size, embed_dim)
        self.dropout = nn.Dropout(dropout)
        self.rnn = nn.LSTM(embed_dim, cond_dim // 2, batch_first=True, bidirectional=True)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)

    def forward(self, tokens: Tensor, lengths: Tensor) -> TextFeatures:
        lengths = self._check(tokens, lengths)
        embedded = self.dropout(self.embedding(tokens))  # (N, T, E)
        packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
        output, (hidden, _) = self.rnn(packed)
        words, _ = pad_packed_sequence(output, batch_first=True, total_length=tokens.shape[1])
        return TextFeatures(
            words=rearrange(words, "n t d -> n d t"),
            sentence=rearrange(hidden, "direction n half -> n (direction half)"),
        )

    def _check(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Raises where the arguments break the rules; returns the lengths on the CPU."""
        if tokens.ndim != 2 or lengths.shape != tokens.shape[:1] or tokens.numel() == 0:
            raise ValueError(
                "tokens must be (N, T) and lengths (N,) with N and T at least 1, got "
                f"{tuple(tokens.shape)} and {tuple(lengths.shape)}; for a single caption pass tokens[None]"
            )
        if tokens.dtype != torch.int64:
            raise TypeError(f"tokens must be int64, got {tokens.dtype}; use tokens.long().")
        if lengths.is_floating_point() or lengths.is_complex() or lengths.dtype == torch.bool:
            raise TypeError(f"lengths must be integers, got {lengths.dtype}; use lengths.long().")
        lengths = lengths.to("cpu", torch.int64)
        shortest, longest = int(lengths.min()), int(lengths.max())
        if shortest < 1 or longest > tokens.shape[1]:
            raise ValueError(
                f"lengths must be in 1..T with T = {tokens.shape[1]}, got {shortest}..{longest}; "
                "drop empty captions, and cut lengths together with tokens."
            )
        if tokens.device.type == "cpu":
            lowest, highest = int(tokens.min()), int(tokens.max())
            if lowest < 0 or highest >= self.embedding.num_embeddings:
                raise ValueError(
                    f"tokens must be in 0..{self.embedding.num_embeddings - 1}, got {lowest}.."
                    f"{highest}; were the captions encoded with the vocabulary this encoder was made for?"
                )
        return lengths
