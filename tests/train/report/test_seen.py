"""The pages that are made for reading, in a real browser, wide and narrow: every figure is drawn, nothing is broken or asked of a network."""

import json
from pathlib import Path

import pytest

from launch.talk.reading import write_results
from tests.made.browser import BROWSER, DRIVER, Browser
from tests.train.report.test_page import folder_of, outcome
from train.report.write import write_report

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not (DRIVER and BROWSER):
        pytest.skip("no browser here: apt-get install chromium chromium-driver")
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


def ratings_page(folder: Path) -> Path:
    lines = []
    for number, rating in enumerate(("left", "right", "tie", "neither")):
        said = [{"role": "user", "content": "Why? " * 60}, {"role": "assistant", "content": "<b>" + "x" * 300}]
        answers = [{"side": side, "model": f"runs/{side}" + "y" * 80, "messages": said, "cut": [None]} for side in ("left", "right")]
        lines.append(
            {"id": f"{number:022d}", "messages": said, "meta": {"rating": rating, "answers": answers, "time": "2026", "comment": "z" * 200}}
        )
    (folder / "ratings.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_results(folder / "ratings.jsonl")
    return folder / "ratings.html"


def test_pages_are_whole_at_1280_and_400_pixels(browser, tmp_path):
    run = folder_of(tmp_path, heldout={"stop_if": ["general > 1.1x"]})
    outcome(run)
    (run / "answers.jsonl").write_text("".join(json.dumps({"step": s, "prompt": "p" * 200, "answer": "a" * 300}) + "\n" for s in (0, 8)))
    (run / "eval").mkdir()
    (run / "eval" / "perplexity.json").write_text(
        json.dumps({"models": {"m" * 120: {"perplexity": 9.5, "interval": [9.0, 10.0]}, "n": {"perplexity": 8.0}}})
    )
    looked = 0
    for page in (write_report(run), ratings_page(tmp_path)):
        for width in (1280, 400):
            browser.width(width, 900)
            browser.open(page.as_uri())
            browser.wait("document.readyState === 'complete'")
            assert browser.js("document.documentElement.scrollWidth") <= width, (page, width)
            drawn = browser.js("[...document.images].map(i => i.complete && i.naturalWidth > 100 && i.clientWidth > 200)")
            assert all(drawn) and len(drawn) == (5 if page.name == "report.html" else 0)
            assert browser.js("performance.getEntriesByType('resource').filter(e => !e.name.startsWith('data:')).length") == 0
            assert browser.js("[...document.querySelectorAll('details')].every(d => (d.open = true, d.scrollWidth <= innerWidth))")
            assert browser.console() == []
            looked += 1
    assert looked == 4
