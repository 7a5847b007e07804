"""The page in a real browser: every figure has its points, and the console stays empty."""

import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from nas.report.page import read_folder, write_folder_page

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_MS = 20_000
"""Virtual time: the browser's clock jumps ahead when nothing is left to do."""


class Points(HTMLParser):
    """How many points, images and bars each figure of a page has."""

    def __init__(self, text):
        super().__init__()
        self.depth, self.figure, self.points, self.images = 0, None, {}, {}
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag == "div" and self.figure:
            self.depth += 1
        elif tag == "div" and (attributes.get("class") or "").startswith("figure"):
            self.figure, self.depth = attributes["id"], 1
            self.points[self.figure] = self.images[self.figure] = 0
        elif self.figure and tag == "path" and attributes.get("class") == "point":
            self.points[self.figure] += 1
        elif self.figure and tag == "image":
            self.images[self.figure] += 1

    def handle_endtag(self, tag):
        if tag == "div" and self.figure:
            self.depth -= 1
            self.figure = self.figure if self.depth else None


@pytest.fixture(scope="module")
def browse(tmp_path_factory):
    """What a browser makes of a page, and what it wrote to its console."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("no browser here: install chromium")
    profile = tmp_path_factory.mktemp("profile")

    def run(path):
        done = subprocess.run(
            [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             f"--user-data-dir={profile}", "--enable-logging=stderr", "--dump-dom",
             f"--virtual-time-budget={PATIENCE_MS}", path.as_uri()],
            capture_output=True, text=True, timeout=120, check=True,
        )  # fmt: skip
        return done.stdout, re.findall(r"CONSOLE.*", done.stderr)

    return run


@pytest.mark.slow
def test_every_figure_has_its_points_and_the_console_stays_empty(browse, run_folder, result):
    path = run_folder / "page.html"
    write_folder_page(path, read_folder(run_folder), title="run", force=False)
    dom, console = browse(path)
    assert console == []
    assert 'data-drawn="true"' in dom
    found = Points(dom)
    seen = sum(len(it.evaluated) for it in result.methods)
    steps = [*result.trace, result.trace[-1].actions[result.trace[-1].taken]]
    judged = sum(it.accuracy is not None for it in steps)
    expected = {
        "frontier": seen + len(result.networks),
        "walk": judged + len(steps),
        "latency": len(result.networks),
    }
    searches = {
        f"search{n}-{name}": points for n in (1, 2) for name, points in expected.items()
    }  # fmt: skip
    training = {"training1": 3 * 8, "training2": 2 * 8, "training3": 8, "training4": 0}
    assert found.points == searches | training
    assert found.images["training4"] == 1, "the path probabilities are an image"
    assert dom.count('class="taken"') == 2, "the first step of each search is shown"


@pytest.mark.slow
def test_a_page_that_cannot_draw_says_so(browse, run_folder):
    path = run_folder / "page.html"
    write_folder_page(path, read_folder(run_folder / "slim_2"), title="run", force=False)
    path.write_text(re.sub(r'(id="plotly">)[^<]+', r"\1AAAA", path.read_text()))
    dom, console = browse(path)
    assert len(console) == 1
    assert "The figures cannot be drawn" in dom
    assert 'class="taken"' in dom, "tables need no plotly"
