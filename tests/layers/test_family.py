"""Conditional norms against the figures of the published modules of SPADE, BigGAN, mimicry and DF-GAN."""

import pytest
import torch
from torch import nn

from golden_family import assert_entry, data, family, given, weight
from t2ilayers.layers import ConditionalBatchNorm2d, ConditionalNorm2d, DFAffineBlock, SPADE2d


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
    state = {key: weight(facts["prefix"] + key, shape) for key, shape in facts["keys"].items()
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
