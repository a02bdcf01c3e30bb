"""Pre-train the text and the image encoder with DAMSM, by the published recipe.

  t2ilayers pretrain --experiment short --data my_pictures --steps 800
  t2ilayers pretrain --data my_pictures --epochs 40
  t2ilayers pretrain --data cub:data/birds --augment \\
    --image-encoder inception \\
    --inception-weights inception_v3_google-0cc3c7bd.pth
  t2ilayers pretrain ... --resume

--out receives checkpoints/, metrics.jsonl, TensorBoard's files, losses.png,
run.json with the last measurement of retrieval and, with every checkpoint,
encoders/, which t2ilayers train --encoders and EncoderPair.from_pretrained
read: vocabulary, text encoder and image encoder. Beside these lie
text_encoder.pth and, of Inception, image_encoder.pth as they are published,
for other projects.
"""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from .._files import written_whole
from ..data import CaptionedDataset, collate, open_dataset
from ..encoders import ConvImageEncoder, EncoderPair, InceptionImageEncoder, LSTMTextEncoder, tokenize
from ..interop import official
from ..metrics import r_precision
from ..training import EncoderStep, Run, join_processes
from ._configs import LR_FLOOR, PretrainConfig, read_pretrain_config
from ._script import run_script, some_pictures

MOST_HELD_OUT = 1000  # pictures that retrieval is measured on
CANDIDATES = 100  # captions that a picture finds its own among, where there are as many


def open_encoders(config: PretrainConfig, data: CaptionedDataset) -> EncoderPair:
    """The encoders to train."""
    text_encoder = LSTMTextEncoder(len(data.vocabulary), dropout=config.text_dropout)
    if config.embedding_std is not None:
        torch.nn.init.normal_(text_encoder.embedding.weight, std=config.embedding_std)
    if config.inception_weights is None:
        small = ConvImageEncoder(config.side, width=config.image_width)
        small.whiten(some_pictures(data, config.seed))
        return EncoderPair(text_encoder, small, data.vocabulary, max_words=data.max_words)
    image_encoder = InceptionImageEncoder()
    image_encoder.load_trunk(config.inception_weights, sha256=config.inception_sha256)
    return EncoderPair(text_encoder, image_encoder, data.vocabulary, max_words=data.max_words)


def save_encoders(pair: EncoderPair, folder: Path) -> None:
    pair.save_pretrained(folder)
    for name, encoder in (("text_encoder", pair.text_encoder), ("image_encoder", pair.image_encoder)):
        if isinstance(encoder, LSTMTextEncoder | InceptionImageEncoder):  # the small one was never published
            with written_whole(folder / f"{name}.pth") as path:
                torch.save(official.export(encoder), path)


@torch.no_grad()
def retrieval(pair: EncoderPair, held_out: CaptionedDataset, config: PretrainConfig) -> dict[str, float]:
    """How well held-out pictures and captions find each other; one caption per picture, the same each time.

    R-precision and its candidates, and recall@1 among all of them from picture to caption and back. Captions of
    the same words count as one, since nothing tells them apart. Where a picture has no caption of another class to
    be told from, there is no R-precision.
    """
    pair.eval()
    spread = np.linspace(0, len(held_out) - 1, min(MOST_HELD_OUT, len(held_out))).round().astype(int)
    codes, sentences, class_ids, captions = [], [], [], []
    for rows in np.array_split(spread, math.ceil(len(spread) / config.batch_size)):
        batch = collate([held_out[int(row)] for row in rows])
        codes.append(pair.images(batch["image"]).cpu())
        sentences.append(pair.text_encoder(batch["tokens"].to(pair.device), batch["lengths"]).sentence.cpu())
        class_ids.append(batch["class_ids"])
        captions += batch["captions"]
    images, texts = (torch.nn.functional.normalize(torch.cat(parts)) for parts in (codes, sentences))
    words = [tuple(tokenize(caption)) for caption in captions]
    classes = torch.cat(class_ids)
    candidates = config.candidates
    if candidates is None:
        candidates = min(CANDIDATES, 1 + fewest_others(classes.tolist(), words))
    measured: dict[str, float] = {}
    if candidates > 1 or config.candidates is not None:
        score = r_precision(
            images, texts, classes, captions=captions, candidates=candidates, folds=1, seed=config.seed
        )
        measured |= {"r_precision": score.mean, "candidates": candidates}
    found = {
        "recall_i2t": (images @ texts.T).argmax(1),
        "recall_t2i": (texts @ images.T).argmax(1),
    }
    recalls = {
        name: sum(words[i] == words[j] for i, j in enumerate(nearest.tolist())) / len(words)
        for name, nearest in found.items()
    }
    return measured | recalls


def fewest_others(class_ids: Sequence[int], words: Sequence[tuple[str, ...]]) -> int:
    """Of the samples' counts of others that have another class and other words, the least."""
    by_class, by_words, by_both = (
        Counter(keys) for keys in (class_ids, words, zip(class_ids, words, strict=True))
    )
    return min(
        len(words) - by_class[c] - by_words[w] + by_both[c, w] for c, w in zip(class_ids, words, strict=True)
    )


def said(measured: dict[str, float]) -> str:
    return ", ".join(
        f"{name} {value:.3f}" if isinstance(value, float) else f"{name} {value}"
        for name, value in measured.items()
    )


def learning_rate(config: PretrainConfig, epoch: int) -> float:
    return max(LR_FLOOR, config.lr * 0.98**epoch)  # published


def pretrain(config: PretrainConfig) -> None:
    config.check()
    processes, device = join_processes()
    torch.manual_seed(config.seed)
    data, held_out = (
        open_dataset(
            config.data,
            split,
            image_size=config.side,
            seed=config.seed,
            class_field=config.class_field,
            augment=config.augment and split == "train",
        )
        for split in ("train", "test")
    )
    stop = config.stop(len(data))
    pair = open_encoders(config, data).to(device)
    training = EncoderStep(
        pair,
        lr=config.lr,
        words=config.words,
        classes=config.classes,
        precision=config.precision,
        processes=processes,
    )
    encoders = config.out / "encoders"
    with Run(
        config,
        training,
        pair,
        data,
        processes=processes,
        device=device,
        shown=({"encoders/words_i2t": "words"} if config.words else {}) | {"encoders/sentence_i2t": "sentence"},
        on_save=lambda: save_encoders(pair, encoders),
    ) as run:
        run.announce(stop, precision=config.precision)
        for step, batch in run.steps(stop):
            measured = {}
            if step % config.measure_every == 0:
                with run.aside():
                    measured = retrieval(pair, held_out, config)
                run.say(f"step {step}: {said(measured)}")
            for group in training.optimizer.param_groups:
                group["lr"] = learning_rate(config, step * config.batch_size // len(data))
            # Measured before the step, and so the state after as many steps as the line's number says.
            losses = training(batch, train_text=step >= config.freeze_text)
            run.record(losses | {f"retrieval/{name}": value for name, value in measured.items()})
        measured = retrieval(pair, held_out, config)
        run.log.draw(config.out / "losses.png")
        run.finish(
            {
                "encoders": f"{encoders}, for t2ilayers train --encoders",
                "retrieval": said(measured),
                "losses": f"{config.out / 'losses.png'}, or tensorboard --logdir {config.out}",
            },
            held_out={"pictures": min(MOST_HELD_OUT, len(held_out)), **measured},
        )


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    return run_script("pretrain", lambda: pretrain(read_pretrain_config(arguments, __doc__)))
