"""Headless Chromium for tests that look at pages as readers do, and a server for what they look at."""

from __future__ import annotations

import base64
import functools
import io
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
]


def why_no_browser() -> str | None:
    """One sentence on why there is no browser to test with, or None."""
    if find_spec("selenium") is None:
        return "selenium is not installed; make test-docs does it"
    missing = [program for program in ("chromium", "chromedriver") if shutil.which(program) is None]
    return f"{' and '.join(missing)} not found; make test-docs installs Debian's packages" if missing else None


@contextmanager
def chromium(profile: Path) -> Iterator[Any]:
    """A selenium driver with an empty profile, whose console is recorded."""
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = shutil.which("chromium")
    for flag in (*FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address at which the files of a folder are served."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def emulate(driver: Any, width: int, height: int = 900) -> None:
    """A window of that size; below 600 px, that of a phone."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


class AppPage:
    """The page of ``t2ilayers app``, freshly loaded, as a user has it; maybe in a frame of another page."""

    def __init__(self, driver: Any, address: str, frame: str | None = None) -> None:
        from selenium.webdriver.support.ui import WebDriverWait

        self.driver = driver
        self.wait = WebDriverWait(driver, 20)
        driver.get_log("browser")
        driver.get(address)
        if frame is not None:
            driver.switch_to.frame(self.find(frame))
        self.first = self.changed_from(None)

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def image(self) -> str | None:
        return self.find("#image").get_attribute("src")

    def changed_from(self, image: str | None) -> str | None:
        """The picture, once it is another one."""
        self.wait.until(lambda _: self.image() != image)
        return self.image()

    def pixels(self) -> np.ndarray:
        """The picture, as bytes ``(S, S, 3)``."""
        content = base64.b64decode(str(self.image()).removeprefix("data:image/png;base64,"))
        with Image.open(io.BytesIO(content)) as png:
            return np.array(png.convert("RGB"))

    def console(self) -> list[Any]:
        return self.driver.get_log("browser")

    def write(self, text: str) -> None:
        self.driver.execute_script("arguments[0].select()", self.find("#captions"))
        self.driver.execute_cdp_cmd("Input.insertText", {"text": text})

    def stage(self, number: int) -> None:
        self.find(f"#stages button:nth-child({number})").click()

    def stroke(self, start: tuple[float, float], stop: tuple[float, float]) -> None:
        """Draws a line; points are in parts of the mask's side."""
        from selenium.webdriver import ActionChains

        mask = self.find("#paint")
        side = mask.size["width"]
        (x, y), (to_x, to_y) = (((u - 0.5) * side, (v - 0.5) * side) for u, v in (start, stop))
        actions = ActionChains(self.driver).move_to_element_with_offset(mask, x, y).click_and_hold()
        actions.move_by_offset(to_x - x, to_y - y).release().perform()

    def mask(self) -> np.ndarray:
        """The canvas, as a side and its grey values."""
        script = """const painted = document.getElementById("paint"), side = painted.width;
        const copy = new OffscreenCanvas(side, side).getContext("2d", {willReadFrequently: true});
        copy.drawImage(painted, 0, 0);
        return [...copy.getImageData(0, 0, side, side).data].filter((_, i) => i % 4 == 0);"""
        values = np.array(self.driver.execute_script(script))
        return values.reshape(2 * [round(len(values) ** 0.5)])
