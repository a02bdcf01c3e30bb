"""The interactive look: what its server answers, and the page in a browser."""

import base64
import http.client
import importlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
import torch
from PIL import Image

from t2ilayers import SSAGAN, SSAGANConfig
from t2ilayers.encoders import Vocabulary

from chromium import chromium, emulate, why_no_browser

EXAMPLES = Path(__file__).parents[2] / "examples"
SHOTS = os.environ.get("T2ILAYERS_SHOTS")  # a folder for pictures of the page, for people to look at
FIRST = "a big red star on a black background"  # what the page suggests to a model that knows the words


@pytest.fixture(scope="module")
def model():
    vocabulary = Vocabulary.build([FIRST, "a small blue ring"])
    torch.manual_seed(0)
    config = SSAGANConfig(16, ngf=4, ndf=2, cond_dim=16, embed_dim=8, mask_channels=4, vocab_size=len(vocabulary))
    model = SSAGAN(config, vocabulary)
    for weights in model.generator.parameters():  # some of which begin at 0, where neither text nor mask acts
        torch.nn.init.normal_(weights, std=0.2)
    return model.eval()


@pytest.fixture(scope="module")
def app(model):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        module = importlib.import_module("app")
    with module.App(model) as app:
        thread = threading.Thread(target=app.serve_forever)
        thread.start()
        yield app
        app.shutdown()
        thread.join()


def ask(app, method, path, body=None, headers=()):
    connection = http.client.HTTPConnection("127.0.0.1", app.server_port, timeout=60)
    try:
        connection.request(method, path, body, dict(headers))
        reply = connection.getresponse()
        return reply.status, reply.read()
    finally:
        connection.close()


def request(**changes):
    return {"caption": FIRST, "seed": 3, "truncation": None, "masks": [None] * 3} | changes


def picture(app, **changes):
    status, content = ask(app, "POST", "/picture", json.dumps(request(**changes)))
    assert status == 200, content
    answer = json.loads(content)
    with Image.open(io.BytesIO(base64.b64decode(answer["image"].removeprefix("data:image/png;base64,")))) as png:
        return np.array(png).astype(float), answer["masks"]


def bytes_of(text):
    return np.frombuffer(base64.b64decode(text), np.uint8)


def assert_drawn(found, output):
    """Picture and masks are the model's, to the precision of a byte."""
    pixels, masks = found
    assert np.abs(pixels - (output.images[0].permute(1, 2, 0).numpy() + 1) * 127.5).max() <= 0.51
    for text, mask in zip(masks, output.masks, strict=True):
        assert np.abs(bytes_of(text) - mask.flatten().numpy() * 255.0).max() <= 0.51


@pytest.mark.parametrize("truncation", [None, 0.5, 2])
def test_a_picture_is_what_the_model_draws(app, model, truncation):
    found = picture(app, caption="a blue star", seed=7, truncation=truncation)
    assert_drawn(found, model.generate(["a blue star"], seed=7, truncation=truncation))


def test_a_painted_mask_takes_the_place_of_the_predicted_one(app, model):
    content = bytes(range(0, 256, 4))  # 8 x 8
    painted = base64.b64encode(content).decode()
    found = picture(app, masks=[None, painted, None])
    assert found[1][1] == painted
    mask = torch.tensor(list(content)).view(1, 1, 8, 8) / 255
    assert_drawn(found, model.generate([FIRST], seed=3, masks=[None, mask, None]))
    assert np.abs(found[0] - picture(app)[0]).max() > 2


def test_the_page_learns_the_stages_and_the_words(app):
    status, content = ask(app, "GET", "/model")
    assert (status, json.loads(content)["stages"]) == (200, [4, 8, 16])
    assert set(json.loads(content)["words"]) == {*FIRST.split(), "small", "blue", "ring"}
    assert ask(app, "GET", "/") == (200, (EXAMPLES / "app.html").read_bytes())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"caption": "a red stra"}, "'stra' (near: 'star')"),
        ({"caption": " "}, "at least one word"),
        ({"caption": 1}, "caption must be a sentence, got 1"),
        ({"seed": -1}, "seed must be a whole number in [0, "),
        ({"seed": 2**63}, "seed must be a whole number in [0, "),
        ({"seed": 1.5}, "got 1.5"),
        ({"truncation": 0}, "truncation must be > 0, got 0"),
        ({"truncation": float("nan")}, "truncation must be > 0, got nan"),
        ({"truncation": 10**400}, "int too large"),
        ({"truncation": "1"}, "truncation must be a number or null, got '1'"),
        ({"masks": [None]}, "masks must be one a stage, 3"),
        ({"masks": None}, "masks must be one a stage, 3"),
        ({"masks": ["AAAA", None, None]}, "the mask of 4 px must be 16 bytes, got 3"),
        ({"masks": ["*", None, None]}, "a mask must be base64 of its pixels, got '*'"),
        ({"masks": [7, None, None]}, "a mask must be base64 of its pixels, got 7"),
        ({"sead": 1}, "a request is an object with caption, masks, seed, truncation"),
    ],
)
def test_a_mistake_is_named(app, changes, message):
    status, content = ask(app, "POST", "/picture", json.dumps(request(**changes)))
    assert status == 400
    assert message in json.loads(content)["error"]


@pytest.mark.parametrize("body", ["", "{", "[]", "7", b"\xff", "[" * 100_000])
def test_what_is_no_request_is_refused(app, body):
    status, content = ask(app, "POST", "/picture", body)
    assert status == 400
    assert json.loads(content)["error"]


def test_other_addresses_and_large_bodies_are_refused(app):
    assert ask(app, "GET", "/../app.py")[0] == 404
    assert ask(app, "POST", "/", "{}")[0] == 404
    assert ask(app, "POST", "/picture", headers={"Content-Length": "5000000"})[0] == 413
    assert ask(app, "POST", "/picture", headers={"Content-Length": "-1"})[0] == 411


def test_one_picture_is_drawn_at_a_time(app, model):
    drawing, most = 0, 0

    def enter(*_):
        nonlocal drawing, most
        drawing += 1
        most = max(most, drawing)

    def leave(*_):
        nonlocal drawing
        drawing -= 1

    hooks = [model.generator.register_forward_pre_hook(enter), model.generator.register_forward_hook(leave)]
    threads = [threading.Thread(target=picture, args=(app,), kwargs={"seed": seed}) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for hook in hooks:
        hook.remove()
    assert most == 1


def test_the_script_serves_this_machine_until_it_is_interrupted(model, tmp_path):
    model.save_pretrained(tmp_path)
    command = [sys.executable, str(EXAMPLES / "app.py"), str(tmp_path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            address = re.search(r"at (http://127\.0\.0\.1:\d+/),", process.stdout.readline())[1]
            with urlopen(address) as reply:
                assert b"<title>" in reply.read()
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()  # whatever went wrong, leaving the block would wait for it
    assert (process.returncode, errors) == (0, "")


NO_BROWSER = why_no_browser()
in_a_browser = pytest.mark.skipif(NO_BROWSER is not None, reason=NO_BROWSER or "")


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


class Page:
    """The page, freshly loaded, as a user has it."""

    def __init__(self, driver, address):
        from selenium.webdriver.support.ui import WebDriverWait

        self.driver = driver
        self.wait = WebDriverWait(driver, 20)
        driver.get_log("browser")
        driver.get(address)
        self.first = self.changed_from(None)

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def image(self):
        return self.find("#image").get_attribute("src")

    def changed_from(self, image):
        """The picture, once it is another one."""
        self.wait.until(lambda _: self.image() != image)
        return self.image()

    def console(self):
        return self.driver.get_log("browser")

    def write(self, text):
        self.driver.execute_script("arguments[0].select()", self.find("#captions"))
        self.driver.execute_cdp_cmd("Input.insertText", {"text": text})

    def stage(self, number):
        self.find(f"#stages button:nth-child({number})").click()

    def stroke(self, start, stop):
        """Draws a line; points are in parts of the mask's side."""
        from selenium.webdriver import ActionChains

        mask = self.find("#paint")
        side = mask.size["width"]
        (x, y), (to_x, to_y) = (((u - 0.5) * side, (v - 0.5) * side) for u, v in (start, stop))
        actions = ActionChains(self.driver).move_to_element_with_offset(mask, x, y).click_and_hold()
        actions.move_by_offset(to_x - x, to_y - y).release().perform()

    def mask(self):
        """The canvas, as a side and its grey values."""
        script = """const painted = document.getElementById("paint"), side = painted.width;
        const copy = new OffscreenCanvas(side, side).getContext("2d", {willReadFrequently: true});
        copy.drawImage(painted, 0, 0);
        return [...copy.getImageData(0, 0, side, side).data].filter((_, i) => i % 4 == 0);"""
        values = np.array(self.driver.execute_script(script))
        return values.reshape(2 * [round(len(values) ** 0.5)])


@pytest.fixture
def page(driver, app):
    emulate(driver, 1100)
    return Page(driver, app.address)


@in_a_browser
def test_the_page_loads_with_a_picture_and_its_masks(page, app):
    pixels, masks = picture(app, seed=0)
    shown = io.BytesIO(base64.b64decode(page.image().partition(",")[2]))
    with Image.open(shown) as png:
        assert np.array_equal(np.array(png), pixels)
    for number, text in enumerate(masks, start=1):
        page.stage(number)
        assert np.array_equal(page.mask().flatten(), bytes_of(text))
    assert page.console() == []


@in_a_browser
def test_captions_seed_and_truncation_change_the_picture(page):
    from selenium.webdriver.common.keys import Keys

    page.write("a small blue ring")
    ring = page.changed_from(page.first)
    page.find("#seed").send_keys(Keys.ARROW_RIGHT)
    other = page.changed_from(ring)
    page.find("#truncation").send_keys(Keys.HOME)
    page.changed_from(other)
    page.write(f"{FIRST}\na small ring")
    page.wait.until(lambda driver: len(driver.find_elements("css selector", "#pictures img:not([hidden])")) == 2)
    star = page.image()
    page.find("#pictures button:nth-child(2)").click()
    assert page.find("#image").get_attribute("alt") == "a small ring"
    assert page.changed_from(star)
    assert page.console() == []


@in_a_browser
def test_painting_a_mask_changes_the_picture_until_it_is_predicted_again(page):
    page.stage(2)
    before = page.mask()
    assert not page.find("#again").is_enabled()
    page.find("#black").click()
    page.stroke((1 / 16, 5 / 16), (15 / 16, 5 / 16))  # along the third of eight rows
    painted = page.changed_from(page.first)
    assert (page.mask()[2] == 0).all()
    assert np.array_equal(page.mask()[4:], before[4:])
    page.find("#white").click()
    page.stroke((9 / 16, 13 / 16), (9 / 16, 13 / 16))
    page.changed_from(painted)
    assert page.mask()[6, 4] == 255
    page.find("#again").click()
    page.wait.until(lambda _: page.image() == page.first)
    assert np.array_equal(page.mask(), before)
    assert page.console() == []


@in_a_browser
def test_an_unknown_word_is_named_and_goes_with_it(page):
    page.write("a purpl ring")
    message = page.wait.until(lambda _: page.find("#wrong").text)
    assert "'purpl'" in message
    assert page.image() == page.first
    page.write("a ring")
    page.changed_from(page.first)
    assert page.find("#wrong").text == ""


@in_a_browser
@pytest.mark.parametrize("width", [1100, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_window_and_follows_the_scheme(driver, app, width, scheme):
    emulate(driver, width)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    page = Page(driver, app.address)
    page.write(f"{FIRST}\na small blue ring\na red ring\n{'b' * 80}")
    page.wait.until(lambda _: page.find("#wrong").text)
    script = "return [document.documentElement.scrollWidth, getComputedStyle(document.body).backgroundColor]"
    scroll, paper = driver.execute_script(script)
    assert scroll <= width
    assert (max(map(int, re.findall(r"\d+", paper))) < 60) == (scheme == "dark")
    if SHOTS:
        emulate(driver, width, driver.execute_script("return document.documentElement.scrollHeight"))
        driver.save_screenshot(str(Path(SHOTS) / f"app-{width}-{scheme}.png"))
