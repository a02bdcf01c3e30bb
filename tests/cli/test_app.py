"""The interactive look: what its server answers, and the page in a browser."""

import base64
import http.client
import io
import json
import os
import re
import select
import signal
import socket
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
from t2ilayers.cli import app as module
from t2ilayers.encoders import Vocabulary

from chromium import AppPage, chromium, emulate, why_no_browser

SHOTS = os.environ.get("T2ILAYERS_SHOTS")  # a folder for pictures of the page, for people to look at
RING = "a small blue ring"
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
    with module.App(model, captions=[FIRST, "a purple cow", RING]) as app:
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
    assert json.loads(content)["captions"] == [FIRST, RING]  # not what the model has no words for
    assert ask(app, "GET", "/") == (200, module.PAGE.read_bytes())
    assert ask(app, "GET", "/backend.mjs") == (200, module.BACKEND.read_bytes())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"caption": "a red stra"}, "'stra' (near: 'star')"),
        ({"caption": " "}, "at least one word"),
        ({"caption": 1}, "caption must be a sentence, got 1"),
        ({"caption": "a\u0301" * 10**5}, "caption must have at most 10000 characters, got 200000"),
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


def talk(app, content):
    """What the server says to these very bytes."""
    with socket.create_connection(("127.0.0.1", app.server_port), timeout=60) as connection:
        connection.sendall(content)
        return b"".join(iter(lambda: connection.recv(2**16), b""))


def parted(reply):
    head, _, body = reply.partition(b"\r\n\r\n")
    line, *fields = head.decode().split("\r\n")
    return int(line.split()[1]), dict(field.split(": ", 1) for field in fields), body


def post(host, *fields, body=None):
    body = json.dumps(request()).encode() if body is None else body
    lines = ["POST /picture HTTP/1.1", *host, f"Content-Length: {len(body)}", *fields]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    "host", ["127.0.0.1:{port}", "localhost:{port}", "LocalHost:{port}", "localhost:9000", "localhost"]
)
def test_it_answers_the_host_that_it_serves(app, host):
    """By the port of a tunnel, too."""
    host = host.format(port=app.server_port)
    for origin in ([], [f"Origin: http://{host}"]):
        assert parted(talk(app, post([f"Host: {host}"], *origin)))[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "localhost.evil.example:{port}"),
        *("127.0.0.2:{port}", "[::1]:{port}", "10.0.0.1", "0.0.0.0", "2130706433", "127.1", "localhost."),
        *(
            "",
            ":{port}",
            "localhost:",
            "localhost:port",
            "me@localhost",
            "localhost/",
            "local host",
            "http://[::1]",
        ),
        *("localhost, localhost", "localhost\r\nHost: evil.example", "l\xf6calhost", "[", "]", "[::1"),
        pytest.param("x" * 60_000, id="long"),
    ],
)
@pytest.mark.parametrize("path", ["/", "/model", "/picture"])
def test_no_other_host_is_answered(app, host, path):
    line = f"Host: {host.format(port=app.server_port)}"
    asked = post([line]) if path == "/picture" else f"GET {path} HTTP/1.1\r\n{line}\r\n\r\n".encode("latin-1")
    status, _, body = parted(talk(app, asked))
    assert status == 403
    assert "Host must be that of http://127.0.0.1:" in json.loads(body)["error"]


def test_a_request_without_a_host_is_refused(app):
    for version in ("1.0", "1.1"):
        assert parted(talk(app, f"GET /model HTTP/{version}\r\n\r\n".encode()))[0] == 403
    assert talk(app, b"GET /model\r\n\r\n").startswith(b'{"error"')  # as there were no headers yet


@pytest.mark.parametrize(
    "origin",
    [
        *(
            "http://evil.example",
            "http://127.0.0.1",
            "http://127.0.0.1:1",
            "http://localhost:{port}",
            "null",
            "file://",
        ),
        *("", "http://", "127.0.0.1:{port}", "http://127.0.0.1:{port}/", "http://evil.example://127.0.0.1:{port}"),
        *("http://[", "http://127.0.0.1:{port}\r\nOrigin: http://evil.example"),
    ],
)
@pytest.mark.parametrize("kind", ["text/plain", "application/json", "application/x-www-form-urlencoded"])
def test_no_page_of_another_origin_is_answered(app, origin, kind):
    fields = [f"Origin: {origin.format(port=app.server_port)}", f"Content-Type: {kind}"]
    status, head, body = parted(talk(app, post([f"Host: 127.0.0.1:{app.server_port}"], *fields)))
    assert status == 403
    assert "Origin must be that of the page" in json.loads(body)["error"]
    assert not [name for name in head if name.lower().startswith("access-control-")]


@pytest.mark.parametrize(
    ("host", "answered", "refused"),
    [
        (
            "0.0.0.0",
            ["127.0.0.1", "192.168.7.7:80", "[fe80::1]:80", "localhost", "{own}"],
            ["evil.example", "{own}.x"],
        ),
        ("localhost", ["127.0.0.1", "localhost:80"], ["10.0.0.1", "evil.example"]),
        ("127.0.0.2", ["127.0.0.2", "localhost"], ["127.0.0.1", "evil.example"]),
    ],
)
def test_who_is_answered_follows_what_is_listened_at(app, model, host, answered, refused):
    with type(app)(model, host) as other:
        own = socket.gethostname()
        assert [name for name in answered if not other.serves(name.format(own=own))] == []
        assert [name for name in refused if other.serves(name.format(own=own))] == []


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ("GET / HTTP/1.1", 200),
        ("GET /model HTTP/1.1", 200),
        ("GET /backend.mjs HTTP/1.1", 200),
        ("GET /nothing HTTP/1.1", 404),
        ("DELETE / HTTP/1.1", 501),
        ("HEAD / HTTP/1.1", 501),
        ("OPTIONS /picture HTTP/1.1", 501),
        ("GET / HTTP/7", 400),
        ("GET / HTTP/2.0", 505),
        ("nonsense", 400),
        ("GET /" + "a" * 60_000 + " HTTP/1.1", 404),
        ("GET /" + "a" * 70_000 + " HTTP/1.1", 414),
        ("B" * 60_000 + " / HTTP/1.1", 501),
        ("a " * 30_000, 400),
        ("GET / HTTP/1.1\r\nX: " + "a" * 70_000, 431),
        ("GET / HTTP/1.1" + "\r\nX: a" * 200, 431),
        ("POST /picture HTTP/1.1", 411),
        ("POST /picture HTTP/1.1\r\nContent-Length: 1" + "0" * 6000, 413),
        ("POST /picture HTTP/1.1\r\nContent-Length: " + "0" * 6000 + "2", 400),
        ("POST /picture HTTP/1.1\r\nContent-Length: " + "x" * 6000, 411),
        ("POST /picture HTTP/1.1\r\nContent-Length: \xb2", 411),
        ("POST /picture HTTP/1.1\r\nContent-Length: +2", 411),
        ("POST /picture HTTP/1.1\r\nTransfer-Encoding: chunked", 411),
    ],
    ids=lambda value: str(value)[:30],
)
def test_every_answer_is_small_and_has_the_usual_headers(app, capfd, asked, status):
    reply = talk(app, f"{asked}\r\nHost: localhost\r\n\r\n{{}}".encode("latin-1"))
    found, head, body = parted(reply)
    assert found == status
    assert int(head["Content-Length"]) == len(body) or asked.startswith("HEAD")
    assert head["X-Content-Type-Options"] == "nosniff"
    assert "frame-ancestors 'none'" in head["Content-Security-Policy"]
    assert head["X-Frame-Options"] == "DENY"
    assert head["Server"] == "t2ilayers"  # and not which Python
    if status != 200:
        assert len(reply) < 2000
        assert not body or json.loads(body)["error"]
    assert capfd.readouterr() == ("", "")


def test_a_long_mistake_is_quoted_in_part(app):
    for changes in ({"caption": "xyz" * 1_000_000}, {"caption": "x " * 1_000_000}, {"sead" * 500_000: 1}):
        status, _, body = parted(
            talk(app, post(["Host: localhost"], body=json.dumps(request(**changes)).encode()))
        )
        assert status == 400
        assert len(body) < 2000


def dribble(app, first, rest):
    """What the server says to one who sends the rest by the byte, more slowly than it will wait for."""
    with socket.create_connection(("127.0.0.1", app.server_port), timeout=60) as connection:
        connection.sendall(first)
        for byte in rest:
            if select.select([connection], [], [], 0.05)[0]:
                break
            connection.sendall(bytes([byte]))
        else:
            raise AssertionError("the server waited for all of it")
        return b"".join(iter(lambda: connection.recv(2**16), b""))


def test_a_request_that_dribbles_in_is_given_up(app, monkeypatch, capfd):
    monkeypatch.setattr(app.RequestHandlerClass, "seconds", 0.4)
    status, _, body = parted(dribble(app, post(["Host: localhost"], body=b"{" + b" " * 999)[:-999], b" " * 999))
    assert status == 408
    assert "must arrive within 0.4 seconds" in json.loads(body)["error"]
    # Of what is no request yet nothing is said; neither here nor on the terminal.
    assert dribble(app, b"GET / HTTP/1.1\r\nX: ", b"a" * 999) == b""
    assert dribble(app, b"GE", b"T" * 999) == b""
    assert talk(app, b"") == b""
    assert capfd.readouterr() == ("", "")


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
    command = [sys.executable, "-m", "t2ilayers", "app", str(tmp_path), "--port", "0"]
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


@pytest.fixture
def page(driver, app):
    emulate(driver, 1100)
    return AppPage(driver, app.address)


@in_a_browser
def test_the_page_loads_with_a_picture_and_its_masks(page, app):
    pixels, masks = picture(app, seed=0)
    assert np.array_equal(page.pixels(), pixels)
    for number, text in enumerate(masks, start=1):
        page.stage(number)
        assert np.array_equal(page.mask().flatten(), bytes_of(text))
    assert page.console() == []


@in_a_browser
def test_captions_seed_and_truncation_change_the_picture(page):
    from selenium.webdriver.common.keys import Keys

    page.write("a small blue ring")
    ring = page.changed_from(page.first)
    page.find("#seed").send_keys(Keys.ARROW_UP)
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
    page.find("#undo").click()
    page.wait.until(lambda _: page.image() == painted)
    page.find("#again").click()
    page.wait.until(lambda _: page.image() == page.first)
    page.find("#undo").click()  # also of a reset
    page.wait.until(lambda _: page.image() == painted)
    page.find("#undo").click()
    page.wait.until(lambda _: page.image() == page.first)
    assert not page.find("#undo").is_enabled()
    assert not page.find("#clear").is_enabled()
    assert np.array_equal(page.mask(), before)
    assert page.console() == []


@in_a_browser
def test_examples_words_and_a_random_seed_are_a_click_away(page):
    assert "16 px" in page.find("h1").text
    page.find("#examples button:nth-child(2)").click()  # of the two that the model's words suffice for
    ring = page.changed_from(page.first)
    assert page.find("#captions").get_attribute("value").splitlines() == [FIRST, RING]
    page.find("#random").click()
    page.changed_from(ring)
    page.write("a ")
    page.find("#words button:last-child").click()
    assert page.find("#captions").get_attribute("value") == f"a {page.find('#words button:last-child').text}"
    link = page.find("#download")
    assert link.get_attribute("href") == page.image()
    assert link.get_attribute("download").endswith(".png")
    assert page.console() == []


@in_a_browser
def test_a_link_shows_what_it_was_taken_from(page, app, driver):
    page.write(f"{FIRST}\na small ring")
    page.find("#random").click()
    page.changed_from(page.first)
    page.wait.until(lambda _: "small+ring" in driver.current_url)
    link, shown = driver.current_url, page.image()
    driver.get("about:blank")
    driver.get(link)
    page.wait.until(lambda _: page.image() == shown)
    assert page.find("#captions").get_attribute("value").splitlines() == [FIRST, "a small ring"]
    assert page.console() == []


@in_a_browser
def test_an_unknown_word_is_named_and_goes_with_it(page):
    page.write("a purpl ring")
    message = page.wait.until(lambda _: page.find("#wrong").text)
    assert "'purpl'" in message
    assert page.image() == page.first
    assert "failed" in page.find("#image").get_attribute("class")
    assert page.find("#image").get_attribute("alt") == FIRST
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
    page = AppPage(driver, app.address)
    page.write(f"{FIRST}\na small blue ring\na red ring\n{'b' * 80}")
    page.wait.until(lambda _: page.find("#wrong").text)
    script = "return [document.documentElement.scrollWidth, getComputedStyle(document.body).backgroundColor]"
    scroll, paper = driver.execute_script(script)
    assert scroll <= width
    assert (max(map(int, re.findall(r"\d+", paper))) < 60) == (scheme == "dark")
    if SHOTS:
        emulate(driver, width, driver.execute_script("return document.documentElement.scrollHeight"))
        driver.save_screenshot(str(Path(SHOTS) / f"app-{width}-{scheme}.png"))
