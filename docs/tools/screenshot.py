"""Pictures of the app's page, light and dark, with a painted mask: docs/assets/app.png and app-dark.png.

python docs/tools/screenshot.py docs/assets

Needs Chromium and its driver, as `make test-docs` does.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from t2ilayers import SSAGAN
from t2ilayers._pretrained import model_folder
from t2ilayers.cli.app import App, read_captions

sys.path.append(str(Path(__file__).parents[2] / "tests" / "docs"))
from chromium import AppPage, chromium, emulate

MODEL = "shapes32"
WIDTH = 1060
NAMES = {"light": "app.png", "dark": "app-dark.png"}


def main(folder: Path) -> None:
    captions = read_captions(model_folder(MODEL))
    with (
        tempfile.TemporaryDirectory() as profile,
        chromium(Path(profile)) as driver,
        App(SSAGAN.from_pretrained(MODEL), name=MODEL, captions=captions) as app,
    ):
        thread = threading.Thread(target=app.serve_forever)
        thread.start()
        for scheme, name in NAMES.items():
            take(driver, app.address, scheme, folder / name)
        app.shutdown()
        thread.join()


def take(driver: Any, address: str, scheme: str, path: Path) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    emulate(driver, WIDTH)
    page = AppPage(driver, address)
    page.stage(4)  # whose mask is of the shape itself
    page.find("#black").click()
    page.stroke((0.1, 0.9), (0.9, 0.1))
    page.changed_from(page.first)
    last = None
    while page.image() != last:  # until the stroke is drawn to its end
        last = page.image()
        driver.execute_async_script("setTimeout(arguments[0], 500)")
    emulate(driver, WIDTH, driver.execute_script("return document.documentElement.offsetHeight"))
    driver.save_screenshot(str(path))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
