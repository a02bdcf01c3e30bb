"""The built site and the browser of the tests that look at pages."""

from pathlib import Path

import pytest

from chromium import chromium, served

SITE = Path(__file__).parents[2] / "site"


@pytest.fixture(scope="module")
def site():
    with served(SITE) as address:
        yield address


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as driver:
        yield driver
