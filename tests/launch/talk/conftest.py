"""One browser for the tests of this room."""

import pytest

from tests.made.browser import BROWSER, DRIVER, Browser


@pytest.fixture(scope="package")
def browser(tmp_path_factory):
    if not (DRIVER and BROWSER):
        pytest.skip("no browser here: apt-get install chromium chromium-driver")
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()
