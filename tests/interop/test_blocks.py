"""Blocks and layers out of published files, against the figures of the published ones."""

import pytest
import torch

from golden_family import assert_entry, data, family, given, weight
from t2ilayers.interop import official
from t2ilayers.interop._registry import format_of

TEXT = family("textblocks")[1]["cases"]
RAT = [case for case in TEXT if case.startswith("rat.") and case != "rat.attention_head"]


def loaded(facts, prefix="", **untold):
    """The layer of a case in float64, and its published state; only keys with a prefix, which they lose."""
    keys = {key: shape for key, shape in facts["keys"].items() if key.startswith(prefix)}
    state = {key.removeprefix(prefix): weight(facts["prefix"] + key, shape) for key, shape in keys.items()}
    return official.load_layer(state, **untold).double(), state


def check(case, facts, call, modules, inputs):
    figures, _ = family("textblocks")
    y = call(*inputs)
    assert_entry(y, figures, f"{case}.y", limit=facts["limit"])
    (y.flatten() * data(f"openw:{case}", (y.numel(),), -1, 1)).sum().backward()
    for i, t in enumerate(inputs):
        assert_entry(t.grad, figures, f"{case}.d{i}", limit=facts["limit"])
    grads = {}
    for module, prefix in modules:
        parameters = dict(module.named_parameters())
        for theirs, ours in format_of(module).keys(module).items():
            if ours in parameters:
                grads[prefix + theirs] = parameters[ours].grad.norm()
    norms = torch.stack([grads.get(key, torch.zeros(()).double()) for key in facts["params"]])
    assert_entry(norms, figures, f"{case}.gradnorms")
    with torch.no_grad():
        assert_entry(call(*inputs), figures, f"{case}.eval", limit=facts["limit"])


@pytest.mark.parametrize("case", [case for case in TEXT if case not in RAT])
def test_a_block_has_the_figures_of_the_published_one(case):
    facts = TEXT[case]
    untold = {}
    if case == "df2022.gblock.flat":
        untold = {"upsample": False}
    elif case == "df2022.netC":
        untold = {"cond_dim": facts["args"]["cond_dim"]}
    layer, state = loaded(facts, **untold)
    check(case, facts, layer, [(layer, "")], [given(rule) for rule in facts["inputs"]])
    exported = official.export(layer)
    assert exported.keys() == state.keys()
    assert all(torch.equal(value, state[key]) or not value.any() for key, value in exported.items())


def test_the_cell_has_the_figures_of_the_published_one():
    facts = TEXT["rat.cell3"]
    cell, _ = loaded(facts, "lstm.")

    def call(z, cond):
        h, c = cell(z, cond, 3)
        return torch.cat([h, c[-1:]])

    check("rat.cell3", facts, call, [(cell, "lstm.")], [given(rule) for rule in facts["inputs"]])


@pytest.mark.parametrize("case", [case for case in RAT if case != "rat.cell3"])
def test_a_recurrent_block_has_the_figures_of_the_published_one(case):
    facts = TEXT[case]
    cell, _ = loaded(facts, "block0.lstm.")
    flower = "flower" in case
    own = {key: shape for key, shape in facts["keys"].items() if ".lstm." not in key and ".fea_" not in key
           and (flower or not key.startswith(("block0.affine4", "block0.affine5")))}  # fmt: skip
    block, _ = loaded(facts | {"keys": own}, "block0.")
    inputs = [given(rule) for rule in facts["inputs"]]
    parts = [(cell, "block0.lstm."), (block, "block0.")]
    check(case, facts, lambda x, z, cond: block(x, cell(z, cond, 6 if flower else 4)[0].unbind()), parts, inputs)
