"""A real browser to test pages: the system's Chromium, driven by Playwright. Without either, tests are skipped."""

import contextlib
import os
import shutil
import time

import pytest


FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run",
)  # fmt: skip
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
SECONDS = 20
READY = "html[data-ready=true]"


def find_browser():
    """Path of a Chromium, or None. RM_TOOLKIT_BROWSER takes precedence."""
    given = os.environ.get("RM_TOOLKIT_BROWSER")
    return given or next((path for path in map(shutil.which, NAMES) if path), None)


@contextlib.contextmanager
def opened_browser():
    """A browser; skips the test if there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="pages are tried with the extra `browser`")
    path = find_browser()
    if path is None:
        pytest.skip("there is no Chromium here (apt-get install chromium)")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


class Tab:
    """An open page, with the errors that the browser reported and the addresses that it requested."""

    def __init__(self, browser, path, *, width=1600, scheme="light", hash=""):
        self.context = browser.new_context(viewport={"width": width, "height": 1000}, color_scheme=scheme)
        self.context.grant_permissions(["clipboard-read", "clipboard-write"])
        self.page = self.context.new_page()
        self.complaints, self.asked = [], []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.base = path.as_uri()
        self.open(hash)

    def open(self, hash=""):
        self.page.goto("about:blank")
        self.page.goto(self.base + hash)
        self.page.wait_for_selector(READY, timeout=1000 * SECONDS)

    def __getattr__(self, name):
        return getattr(self.page, name)

    def texts(self, selector):
        return [element.strip() for element in self.page.locator(selector).all_text_contents()]

    def wait(self, expression):
        """Waits until a JavaScript expression is true, without evaluating strings, which the page forbids."""
        end = time.monotonic() + SECONDS
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, f"never: {expression}; {self.complaints}"
            self.page.wait_for_timeout(15)

    @property
    def pair(self):
        """Name of the pair on display."""
        return self.page.locator(".detail h2").text_content()

    def wait_pair(self, name):
        self.wait(f"document.querySelector('.detail h2')?.textContent === {name!r}")

    @property
    def overflow(self):
        """Number of pixels by which the page is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")

    def close(self):
        self.context.close()
        network = [url for url in self.asked if not url.startswith(("file:", "data:", "about:"))]
        assert self.complaints == [] and network == []


def look_over(path, *, pictures):
    """Opens a page, narrow and wide, light and dark, and checks that nothing is cut off, unreadable or missing."""
    with opened_browser() as browser:
        for width, scheme in ((800, "light"), (800, "dark"), (1600, "light"), (1600, "dark")):
            tab = Tab(browser, path, width=width, scheme=scheme)
            assert tab.overflow <= 0
            ground, ink = (
                tab.evaluate(f"getComputedStyle(document.body).{name}.match(/\\d+/g).map(Number)[0]")
                for name in ("backgroundColor", "color")
            )
            assert (ground - ink > 150) if scheme == "light" else (ink - ground > 150)
            broken = "[...document.querySelectorAll('tbody th, thead button')].filter((e) => e.scrollWidth > e.clientWidth + 1)"
            assert tab.evaluate(f"{broken}.map((e) => e.textContent)") == [], "a name is cut"
            wide = (
                "[...document.querySelectorAll('.table .scroll')].filter((e) => e.scrollWidth > e.clientWidth).length"
            )
            assert width < 1600 or tab.evaluate(wide) == 0, "a column is out of sight"
            for picture in tab.locator("figure img").all():
                picture.scroll_into_view_if_needed()
            tab.wait("[...document.images].every((image) => image.naturalWidth > 100)")
            assert tab.locator("figure img").count() == pictures
            assert tab.locator(".tabs button").count() == 0 and tab.evaluate("window.hit") is None
            heading = tab.locator("thead button").first
            heading.click()
            assert tab.locator("th[aria-sort=ascending], th[aria-sort=descending]").count() == 1
            sorted_once = tab.texts("tbody >> nth=0 >> th")
            heading.focus()
            tab.keyboard.press("Enter")
            assert sorted(tab.texts("tbody >> nth=0 >> th")) == sorted(sorted_once)
            tab.locator(".contents button").last.click()
            tab.wait("document.querySelector('section:last-of-type').getBoundingClientRect().top < window.innerHeight")
            yield tab
            tab.close()
