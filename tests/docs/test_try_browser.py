"""The page of the documentation that draws by itself, in a browser. `make test-docs` installs what this needs."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from t2ilayers import SSAGAN

from chromium import AppPage, emulate, why_no_browser

SITE = Path(__file__).parents[2] / "site"
SHOTS = os.environ.get("T2ILAYERS_SHOTS")  # a folder for pictures of the page, for people to look at
REASON = why_no_browser() or (None if (SITE / "try").is_dir() else "there is no site; make docs builds it")
pytestmark = pytest.mark.skipif(REASON is not None, reason=REASON or "")

FIRST, RING = "a large yellow circle on a navy background", "a yellow ring on a black background"
TOLERANCE = 2e-3
DRAW = """
const [folder, requests, done] = arguments;
const read = async (name, how) => (await fetch(`${folder}shapes32/${name}`))[how]();
(async () => {
    const {SSAGAN, readTensors} = await import(`${folder}ssagan.mjs`);
    const tensors = readTensors(await read("model.safetensors", "arrayBuffer"));
    const model = new SSAGAN(await read("config.json", "json"), await read("vocabulary.json", "json"), tensors);
    return requests.map((request) => model.generate(request.caption, request))
        .map(({image, masks}) => ({image: [...image], masks: masks.map((mask) => [...mask])}));
})().then(done, (error) => done({error: String(error)}));
"""


@pytest.fixture(scope="module")
def model():
    return SSAGAN.from_pretrained("shapes32")


def painted(side):
    """The left half."""
    return [float(i % side < side // 2) for i in range(side**2)]


def test_pictures_and_masks_are_those_of_python(driver, site, model):
    requests = [{"caption": caption, "seed": seed} for caption in (FIRST, RING) for seed in (0, 7, 2**40)]
    requests.append({"caption": RING, "seed": 7, "truncation": 0.5})
    requests.append({"caption": FIRST, "seed": 7, "masks": [None, painted(8), None, painted(32)]})
    driver.get(f"{site}try/")
    answers = driver.execute_async_script(DRAW, f"{site}try/", requests)
    assert isinstance(answers, list), answers
    for request, found in zip(requests, answers, strict=True):
        masks = [
            mask and torch.tensor(mask).view(1, 1, *2 * [round(len(mask) ** 0.5)])
            for mask in request.get("masks", [])
        ]
        options = {"seed": request["seed"], "truncation": request.get("truncation"), "masks": masks or None}
        images, used = model.generate([request["caption"]], **options)
        assert np.abs(np.array(found["image"]) - images.flatten().numpy()).max() <= TOLERANCE
        for one, other in zip(found["masks"], used, strict=True):
            assert np.abs(np.array(one) - other.flatten().numpy()).max() <= TOLERANCE


@pytest.fixture
def page(driver, site):
    emulate(driver, 1280, 2000)
    return AppPage(driver, f"{site}try/", "#try")


def shown(images):
    return ((images[0].permute(1, 2, 0).numpy() + 1) * 127.5).clip(0, 255)


def test_the_page_draws_what_the_command_draws_and_follows_the_brush(page, model):
    images, masks = model.generate([FIRST], seed=0)
    assert np.abs(page.pixels() - shown(images)).max() <= 1
    for number, mask in enumerate(masks, start=1):
        page.stage(number)
        assert np.abs(page.mask() - 255 * mask[0, 0].numpy()).max() <= 1
    page.stage(3)
    page.find("#black").click()
    page.stroke((1 / 32, 9 / 32), (31 / 32, 9 / 32))
    page.changed_from(page.first)
    given = torch.tensor(page.mask() / 255, dtype=torch.float32).view(1, 1, 16, 16)
    assert (page.mask()[4] == 0).all()

    def drawn_with_it(_):
        images, _ = model.generate([FIRST], seed=0, masks=[None, None, given, None])
        return np.abs(page.pixels() - shown(images)).max() <= 1

    page.wait.until(drawn_with_it)  # a stroke is drawn while it goes on
    page.find("#again").click()
    page.wait.until(lambda _: page.image() == page.first)
    assert page.console() == []


def test_captions_seeds_and_mistakes(page, model):
    page.write(RING)
    ring = page.changed_from(page.first)
    page.driver.execute_script("arguments[0].select()", page.find("#seed"))
    page.find("#seed").send_keys("9")
    page.changed_from(ring)
    images, _ = model.generate([RING], seed=9)
    page.wait.until(lambda _: np.abs(page.pixels() - shown(images)).max() <= 1)
    page.driver.switch_to.default_content()
    assert "try/#seed=9&" in page.driver.current_url  # of the documentation's page, not of the frame
    page.driver.switch_to.frame(page.driver.find_element("css selector", "#try"))
    page.write("a purple star")
    assert "'purple'" in page.wait.until(lambda _: page.find("#wrong").text)
    assert page.console() == []


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["default", "slate"])
def test_it_fits_the_window_and_follows_the_scheme_of_the_site(driver, site, width, scheme):
    emulate(driver, width, 2600)
    driver.get(site)
    driver.execute_script(f"document.querySelector('input[data-md-color-scheme={scheme}]').click()")
    page = AppPage(driver, f"{site}try/", "#try")

    def look():
        script = """const frame = document.documentElement, text = getComputedStyle(document.body).color;
        return [text, frame.scrollWidth - innerWidth, frame.scrollHeight - innerHeight];"""
        return page.driver.execute_script(script)

    def is_dark(text):
        return min(map(int, re.findall(r"\d+", text)[:3])) > 128

    page.wait.until(lambda _: look()[2] <= 0)  # as high as it is
    text, beside, _ = look()
    assert beside <= 0
    assert is_dark(text) == (scheme == "slate")
    page.stroke((0.1, 0.5), (0.9, 0.5))
    page.changed_from(page.first)
    driver.switch_to.default_content()
    if SHOTS:
        emulate(driver, width, driver.execute_script("return document.documentElement.scrollHeight"))
        driver.save_screenshot(str(Path(SHOTS) / f"try-{width}-{scheme}.png"))
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    other = {"default": "slate", "slate": "default"}[scheme]
    driver.execute_script(f"document.querySelector('input[data-md-color-scheme={other}]').click()")
    driver.switch_to.frame(driver.find_element("css selector", "#try"))
    page.wait.until(lambda _: is_dark(look()[0]) == (other == "slate"))
    assert page.console() == []
