"""The built documentation as readers see it, in a browser. `make test-docs` installs what this needs."""

import os
from pathlib import Path
from urllib.parse import urldefrag, urlsplit

import pytest

from chromium import emulate, why_no_browser

SITE = Path(__file__).parents[2] / "site"
SHOTS = os.environ.get("T2ILAYERS_SHOTS")  # a folder for pictures of every page, for people to look at
PAGES = sorted(str(path.parent.relative_to(SITE)) for path in SITE.rglob("index.html"))
REASON = why_no_browser() or (None if PAGES else "there is no site; make docs builds it")
pytestmark = pytest.mark.skipif(REASON is not None, reason=REASON or "")

SCHEMES = {"light": "default", "dark": "slate"}
LOOKS = """
const addresses = (selector, name) => [...document.querySelectorAll(selector)].map((e) => e[name]);
return {
    links: addresses("a[href]", "href"),
    assets: [...addresses("link[rel=stylesheet], link[rel=icon]", "href"),
        ...addresses("script[src], img", "src")],
    fetched: performance.getEntriesByType("resource").map((e) => e.name),
    unseen: [...document.images].filter((e) => !e.naturalWidth).map((e) => e.src),
    formulas: document.querySelectorAll("article .katex").length,
    wrong: [...document.querySelectorAll(".katex-error")].map((e) => e.textContent),
    left: [...document.querySelectorAll("article *:not(script):not(pre):not(code)")].flatMap((e) =>
        [...e.childNodes].filter((n) => n.nodeType == 3 && /\\\\[[(]|:math:|:class:|:func:|``/.test(n.data))
            .filter((n) => !n.parentElement.closest(".katex, pre, code")).map((n) => n.data)),
    ids: [...document.querySelectorAll("[id]")].map((e) => e.id),
    figures: document.querySelectorAll("article svg.t2i").length,
};
"""
WIDTH = """
return {page: document.documentElement.scrollWidth, window: document.documentElement.clientWidth,
    wide: [...document.querySelectorAll("article *")]
        .filter((e) => !e.closest(".highlight, .katex-display, .katex-mathml, .md-typeset__scrollwrap, pre"))
        .filter((e) => !e.closest(".hide-tail"))  // of a root, which KaTeX cuts off itself
        .filter((e) => e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML.slice(0, 80))};
"""


def path_of(page):
    return "" if page == "." else f"{page}/"


def open_page(driver, site, page):
    driver.get(site + path_of(page))
    driver.execute_async_script("document.fonts.ready.then(() => arguments[0]())")


def take(driver, name):
    if SHOTS:
        height = driver.execute_script("return document.documentElement.scrollHeight")
        width = driver.execute_script("return innerWidth")
        emulate(driver, width, min(height, 6000))
        driver.save_screenshot(str(Path(SHOTS) / f"{name}.png"))


@pytest.fixture(scope="module")
def looks(driver, site):
    """What every page looks like, by page."""
    emulate(driver, 1280)
    found = {}
    for page in PAGES:
        driver.get_log("browser")
        open_page(driver, site, page)
        found[page] = driver.execute_script(LOOKS) | {"console": driver.get_log("browser")}
    return found


@pytest.mark.parametrize("page", PAGES)
def test_a_page_loads_without_an_error_and_without_the_network(looks, site, page):
    look = looks[page]
    assert look["console"] == []
    assert look["unseen"] == []
    assert [
        address for address in look["fetched"] + look["assets"] if not address.startswith((site, "data:"))
    ] == []
    assert (look["wrong"], look["left"]) == ([], [])


def test_internal_links_and_assets_lead_somewhere(looks, site):
    ids = {path_of(page): set(look["ids"]) for page, look in looks.items()}
    broken = []
    for page, look in looks.items():
        for address in look["links"] + look["assets"]:
            if not address.startswith(site):
                continue
            url, fragment = urldefrag(address)
            path = urlsplit(url).path.lstrip("/")
            if path in ids:
                if fragment and fragment not in ids[path]:
                    broken.append((page, address))
            elif not (SITE / path).is_file():
                broken.append((page, address))
    assert broken == []


@pytest.mark.parametrize(
    ("page", "formulas", "figures"),
    [("concepts", 4, 1), ("kernels", 20, 0), ("gallery", 0, 10), ("api/layers", 6, 0), ("api/losses", 5, 0)],
)
def test_formulas_and_figures_appear(looks, page, formulas, figures):
    assert looks[page]["formulas"] >= formulas
    assert looks[page]["figures"] >= figures


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", [1280, 390])
def test_no_page_scrolls_sideways(driver, site, width, scheme):
    emulate(driver, width)
    driver.get(site)
    toggle = f'[data-md-color-scheme="{SCHEMES[scheme]}"]'
    if not driver.find_elements("css selector", f"body{toggle}"):
        driver.execute_script(f"document.querySelector('input{toggle}').click()")
    wide = {}
    for page in PAGES:
        open_page(driver, site, page)
        assert driver.find_elements("css selector", f"body{toggle}"), "the choice of the scheme is remembered"
        seen = driver.execute_script(WIDTH)
        if seen["page"] > seen["window"] or seen["wide"]:
            wide[page] = seen
        take(driver, f"{page.replace('/', '_').replace('.', 'home')}-{width}-{scheme}")
        emulate(driver, width)
    assert wide == {}


def test_search_finds_a_layer_and_lands_on_it(driver, site):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    emulate(driver, 1280)
    driver.get(site)
    wait = WebDriverWait(driver, 20)
    driver.find_element(By.CSS_SELECTOR, "[data-md-component=search-query]").click()
    active = wait.until(lambda d: d.execute_script("return document.activeElement.closest('input')"))
    active.send_keys("SemanticAffineBN")
    result = '.md-search-result__link[href*="#t2ilayers.layers.SemanticAffineBN"]'
    link = wait.until(lambda d: d.find_elements(By.CSS_SELECTOR, result))[0]
    if SHOTS:
        driver.save_screenshot(str(Path(SHOTS) / "search.png"))
    link.click()
    name = "t2ilayers.layers.SemanticAffineBN"
    heading = wait.until(lambda d: d.find_elements(By.ID, name))[0]
    assert driver.current_url.endswith(f"#{name}")
    assert "SemanticAffineBN" in heading.text
    wait.until(lambda d: 0 <= d.execute_script("return arguments[0].getBoundingClientRect().top", heading) < 900)
