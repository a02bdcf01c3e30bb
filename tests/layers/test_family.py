"""Conditional norms against the figures of the published modules of SPADE, BigGAN, mimicry and DF-GAN."""

import numpy as np
import pytest
import torch
from torch import nn

from golden_family import _uniform, assert_entry, data, family, weight
from t2ilayers.layers import ConditionalBatchNorm2d, ConditionalNorm2d, DFAffineBlock, SPADE2d


def entry(key, shape):
    """A weight or a buffer by the rules, those of statistics and of mimicry's tables first."""
    u, last = _uniform(key, shape), key.split(".")[-1]
    if last in ("running_var", "stored_var"):
        value = 0.5 + u
    elif last in ("running_mean", "stored_mean"):
        value = 0.2 * u - 0.1
    elif key.endswith((".b1.embed.weight", ".b2.embed.weight")):
        half = shape[1] // 2
        value = np.concatenate([0.5 + u[:, :half], 0.2 * u[:, half:] - 0.1], axis=1)
    else:
        return weight(key, shape)
    return torch.from_numpy(value.astype(np.float32).astype(np.float64))


def given(rule):
    name, shape = rule["name"], rule["shape"]
    if rule["rule"] == "labels":
        return torch.from_numpy(np.floor(rule["classes"] * _uniform("data:" + name, shape))).long()
    if rule["rule"] == "onehot":
        n, k, h, w = shape
        block = rule["block"]
        small = np.floor(k * _uniform("data:" + name, (n, -(-h // block), -(-w // block))))
        labels = torch.from_numpy(small).long().repeat_interleave(block, 1).repeat_interleave(block, 2)
        return torch.nn.functional.one_hot(labels[:, :h, :w], k).movedim(3, 1).double()
    x = data(name, shape, rule["lo"], rule["hi"])
    return x if rule.get("fixed") else x.requires_grad_()


def spade(args, state):
    config = args["config"]
    layer = SPADE2d(args["norm_nc"], args["label_nc"], kernel_size=int(config[-1]),
                    stats="instance" if "instance" in config else "batch")  # fmt: skip
    names = {
        "param_free_norm.": "normalize.",
        "mlp_shared.": "shared.",
        "mlp_gamma.": "gamma.",
        "mlp_beta.": "beta.",
    }
    return layer, {new + key[len(old) :]: t for key, t in state.items() for old, new in names.items()
                   if key.startswith(old)}  # fmt: skip


def ccbn(args, state):
    embed = args["linear"] == "embed"
    layer = ConditionalBatchNorm2d(
        args["output_size"], args["input_size"], scale="residual", bias=False,
        condition="embedding" if embed else "linear",
    )  # fmt: skip
    if args.get("norm_style") == "in":  # with running statistics, as the published code calls it
        layer.normalize = nn.InstanceNorm2d(args["output_size"], track_running_stats=True)
    names = {"gain.weight": "gamma.weight", "bias.weight": "beta.weight",
             "stored_mean": "normalize.running_mean", "stored_var": "normalize.running_var"}  # fmt: skip
    return layer, {names[key]: t for key, t in state.items()}


def cbn(args, state):
    layer = ConditionalBatchNorm2d(args["num_features"], args["num_classes"])
    gamma, beta = state["embed.weight"].chunk(2, dim=1)
    return layer, {"gamma.weight": gamma, "beta.weight": beta,
                   **{f"normalize.{key[3:]}": t for key, t in state.items() if key.startswith("bn.")}}  # fmt: skip


def df_affine(args, state, *, hidden=None):
    """One affine alone has no activation and no statistics; two with leaky relu are the fusion block."""
    single = "num_features" in args
    c, d = args.get("num_features") or args["in_ch"], args.get("cond_dim", 256)
    layer = (
        ConditionalNorm2d(c, d, hidden_dim=hidden or c, stats="none", scale="absolute")
        if single
        else DFAffineBlock(c, d, hidden)
    )
    renamed = {}
    for key, t in state.items():
        *affine, mlp, linear, kind = key.split(".")
        part = mlp.removeprefix("fc_")
        place = part if single else f"{part}s.{affine[0].removeprefix('affine')}"
        renamed[f"{place}.{0 if linear == 'linear1' else 2}.{kind}"] = t
    return layer, renamed


CASES = {
    ("spade", "spade.batch3"): spade,
    ("spade", "spade.instance3"): spade,
    ("spade", "spade.instance5"): spade,
    ("biggan", "ccbn.linear"): ccbn,
    ("biggan", "ccbn.embed"): ccbn,
    ("biggan", "ccbn.in"): ccbn,
    ("mimicry", "cbn"): cbn,
    ("textblocks", "df2022.affine"): df_affine,
    ("textblocks", "df2022.dfblk"): df_affine,
    ("textblocks", "df2020.affine"): lambda args, state: df_affine(args, state, hidden=256),
}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 1e-5)])
@pytest.mark.parametrize(("model", "case"), CASES, ids=[case for _, case in CASES])
def test_a_layer_has_the_figures_of_the_published_one(model, case, dtype, tolerance):
    figures, metadata = family(model)
    facts = metadata["cases"][case]
    counters = ("num_batches_tracked", "accumulation_counter")
    state = {key: entry(facts["prefix"] + key, shape) for key, shape in facts["keys"].items()
             if not key.endswith(counters)}  # fmt: skip
    layer, named = CASES[model, case](facts["args"], state)
    layer = layer.double()
    missing, unexpected = layer.load_state_dict(named, strict=False)
    assert not unexpected
    assert all(key.endswith("num_batches_tracked") for key in missing)
    layer = layer.to(dtype)
    inputs = [t.detach().to(dtype).requires_grad_(t.requires_grad) if t.is_floating_point() else t
              for t in map(given, facts["inputs"])]  # fmt: skip
    y = layer.train()(*inputs)
    assert_entry(y, figures, f"{case}.y", limit=facts["limit"], tolerance=tolerance)
    values = data(f"openw:{case}", (y.numel(),), -1, 1).to(dtype)
    (y.flatten() * values).sum().backward()
    wanted = [t for t in inputs if t.requires_grad]
    for i, t in enumerate(wanted):
        # sums of many terms; float32 rounds them by more
        assert_entry(t.grad, figures, f"{case}.d{i}", limit=facts["limit"], tolerance=10 * tolerance)
    with torch.no_grad():
        y = layer.eval()(*inputs)
    assert_entry(y, figures, f"{case}.eval", limit=facts["limit"], tolerance=tolerance)
    if isinstance(getattr(layer, "normalize", None), nn.BatchNorm2d):
        norms = torch.stack([layer.running_mean.double().norm(), layer.running_var.double().norm()])
        torch.testing.assert_close(norms, figures[f"{case}.buffers.norms"].double(), rtol=tolerance, atol=0)
