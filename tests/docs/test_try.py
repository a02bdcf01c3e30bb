"""The model in JavaScript that draws in the documentation: words, noise and pictures are those of Python."""

import json
import random
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from t2ilayers import SSAGAN, SSAGANConfig
from t2ilayers.encoders import Vocabulary, tokenize

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(
    NODE is None, reason="node is not found; in a browser test_try_browser.py says as much"
)

ROOT = Path(__file__).parents[2]
MODULES = ROOT / "docs" / "try"
SHAPES32 = ROOT / "src" / "t2ilayers" / "pretrained" / "shapes32"
TOLERANCE = 1e-4  # the page promises 2e-3
RUN = """
import {readFileSync} from "node:fs";
const modules = process.argv[1], given = JSON.parse(readFileSync(0, "utf8"));
const {SSAGAN, readTensors} = await import(`${modules}/ssagan.mjs`);
const {tokenize} = await import(`${modules}/words.mjs`);
const text = (name) => readFileSync(`${given.folder}/${name}`, "utf8");
const load = () => {
    const file = readFileSync(`${given.folder}/model.safetensors`);
    const tensors = readTensors(file.buffer.slice(file.byteOffset, file.byteOffset + file.length));
    return new SSAGAN(JSON.parse(text("config.json")), JSON.parse(text("vocabulary.json")), tensors);
};
const model = given.folder && load();
const answer = (request) => {
    if (typeof request == "string") return tokenize(request);
    try {
        const {image, masks} = model.generate(request.caption, request);
        return {image: [...image], masks: masks.map((mask) => [...mask])};
    } catch (error) {
        return {error: error.message};
    }
};
console.log(JSON.stringify(given.requests.map(answer)));
"""


def run(requests, folder=None):
    """What the modules answer: words for a string, else a picture or an error."""
    command = [str(NODE), "--input-type=module", "--eval", RUN, MODULES.as_uri()]
    given = json.dumps({"folder": folder and str(folder), "requests": requests})
    found = subprocess.run(command, input=given, capture_output=True, text=True, encoding="utf-8")
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


def assert_drawn(model, requests, folder):
    for request, found in zip(requests, run(requests, folder), strict=True):
        given = [
            None if mask is None else torch.tensor(mask).view(1, 1, side, side)
            for mask, side in zip(request.get("masks", []), model.mask_sides, strict=False)
        ]
        options = {"seed": request["seed"], "truncation": request.get("truncation"), "masks": given or None}
        images, masks = model.generate([request["caption"]], **options)
        assert images.std() > 0.05  # there is something to compare
        assert np.abs(np.array(found["image"]) - images.flatten().numpy()).max() <= TOLERANCE
        for one, other in zip(found["masks"], masks, strict=True):
            assert np.abs(np.array(one) - other.flatten().numpy()).max() <= TOLERANCE


def test_the_packaged_model_draws_the_same():
    model = SSAGAN.from_pretrained("shapes32")
    captions = ["a big red star on a black background", "A Little cyan ring, on the LEFT!", "something olive"]
    requests = [
        {"caption": caption, "seed": seed} for caption in captions for seed in (0, 3, 2**32 + 7, 2**53 - 1)
    ]
    requests += [{"caption": captions[0], "seed": 1, "truncation": truncation} for truncation in (0.4, 1.0, 2.5)]
    requests.append({"caption": " ".join(model.vocabulary.words[1:19]), "seed": 5})  # as many as are read
    assert_drawn(model, requests, SHAPES32)


def test_painted_masks_take_the_place_of_predicted_ones():
    model, paint = SSAGAN.from_pretrained("shapes32"), random.Random(0)
    every = [[paint.random() for _ in range(side**2)] for side in model.mask_sides]
    requests = []
    for chosen in ([0], [1], [2], [3], [1, 2], [0, 1, 2, 3]):
        masks = [mask if i in chosen else None for i, mask in enumerate(every)]
        requests.append({"caption": "a yellow ring on a black background", "seed": 2, "masks": masks})
    assert_drawn(model, requests, SHAPES32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_model_of_other_sizes_draws_the_same(dtype, tmp_path):
    vocabulary = Vocabulary.build(["une crêpe à deux ★", "寿司"])
    sizes = dict(ngf=5, ndf=2, z_dim=48, cond_dim=12, embed_dim=7, mask_channels=3, hidden_dim=9, max_words=3)
    torch.manual_seed(0)
    model = SSAGAN(SSAGANConfig(16, **sizes, vocab_size=len(vocabulary)), vocabulary)
    for name, values in model.state_dict().items():  # some of which begin where they change nothing
        if values.is_floating_point():
            torch.nn.init.normal_(values, std=0.15)
            if name.endswith("running_var"):
                values.add_(1.0)
    model.save_pretrained(tmp_path, dtype=dtype)
    captions = ["une crêpe", "UNE CRE\u0302PE", "deux★寿司"]
    requests = [{"caption": caption, "seed": seed} for caption in captions for seed in (0, 11)]
    assert_drawn(SSAGAN.from_pretrained(tmp_path), requests, tmp_path)


def captions():
    """Of all kinds of characters that the rules tell apart, thrown together."""
    drawn = random.Random(0)
    kinds = [
        *(
            "aZß_09",
            "éÅİΣς",
            "e\u0301\u0323o\u0308",
            "한국어ひらがな漢字",
            "हिन्दी",
            "می‌خواهم",
            "①Ⅷ½²",
            "★😀❤\ufe0f👩‍🚀🏽",
        ),
        *(" \t\n-'", ".,!?°©™\ufffd\u00ad\ufeff\u200b\u200d\u200c", "\u1100\u1161\u11a8ﬁ\U00010400"),
    ]
    for _ in range(400):
        yield "".join(drawn.choice(drawn.choice(kinds)) for _ in range(drawn.randint(0, 12)))


def test_words_are_those_of_the_vocabulary():
    requests = ["This bird\ufffd\ufffds crown is RED, its bill: 2-toned.", "", *captions()]
    assert run(requests) == [tokenize(caption) for caption in requests]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"caption": "a purple star and a Dragon"}, "unknown words: 'purple', 'dragon'; choose from the 52 that"),
        ({"caption": "<end>"}, "unknown words: 'end'"),
        ({"caption": "b c d f g h i"}, "unknown words: 'b', 'c', 'd', 'f', 'g' and 2 more"),
        ({"caption": " ?! "}, "at least one word"),
        ({"seed": -1}, "seed must be a whole number from 0 to 9007199254740991, got -1"),
        ({"seed": 1.5}, "got 1.5"),
        ({"truncation": 0.3}, "truncation must be at least 0.4"),
    ],
)
def test_a_mistake_is_named(changes, message):
    [found] = run([{"caption": "a red star", "seed": 0} | changes], SHAPES32)
    assert message in found["error"]
