"""The live page of a run, and the log that it is made from."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from rm_toolkit.cli import main
from rm_toolkit.errors import InputError
from rm_toolkit.output.line_chart import line_chart, nice_ticks, thinned
from rm_toolkit.output.lock import WriterLock, lock_path
from rm_toolkit.training.watch_page import watch_page
from rm_toolkit.training.watching import read_run


HOSTILE = "</td><script>alert(1)</script>\"'&"


def metrics(name, accuracy, step):
    values = {"accuracy": accuracy, "first_two_accuracy": accuracy, "margin": 0.5, "loss": 0.6, "num_pairs": 8}
    return {"step": step, "epoch": step / 4, **{f"eval_{name}_{key}": value for key, value in values.items()}}


def history(name="law"):
    return [
        metrics(name, 0.5, 0),
        {"step": 2, "loss": 0.7, "learning_rate": 1e-3, "grad_norm": None},
        {"step": 4, "loss": 0.6, "learning_rate": 5e-4},
        metrics(name, 0.875, 4),
    ]


@pytest.fixture
def run(tmp_path):
    """`run(history, **values)`: a folder with a log."""

    def make(logs, name="run", **values):
        folder = tmp_path / name
        folder.mkdir()
        text = json.dumps({"pairs_per_step": 8, "max_steps": 8, "log_history": logs, **values})
        (folder / "training_log.json").write_text(text)
        return folder

    return make


class Page(HTMLParser):
    """Counts elements by name; fails if a tag is closed that was not opened."""

    def __init__(self, text):
        super().__init__()
        self.open, self.found, self.text = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def has(self, tag, **attrs):
        return any(t == tag and attrs.items() <= own.items() for t, own in self.found)


def test_a_run_is_running_stopped_or_finished_and_its_page_reads_itself_again_while_it_runs(run, tmp_path):
    folder = run(history())
    assert read_run(folder).state == "stopped"
    with WriterLock(folder):
        found = read_run(folder)
        assert found.state == "running" and found.since
        page = Page(watch_page(found, 7))
        assert page.has("meta", **{"http-equiv": "refresh", "content": "7"})
    before = sorted(path.name for path in folder.iterdir())
    (folder / "final_eval_results.json").write_text("{}")
    finished = read_run(folder)
    assert finished.state == "finished" and (finished.step, finished.max_steps) == (4, 8)
    page = Page(watch_page(finished, 7))
    assert not page.has("meta", **{"http-equiv": "refresh"}) and "step 4 of 8 (50%)" in " ".join(page.text)
    text = " ".join(page.text)
    assert "0.5000 → 0.8750" in text and "eval_law_accuracy" in text and "learning_rate" in text
    assert not page.has("script") and not re.search(r"https?://", watch_page(finished, 7))
    assert sorted(path.name for path in folder.iterdir()) == sorted([*before, "final_eval_results.json"])


def test_a_lock_that_a_killed_process_left_is_no_running_run(run):
    folder = run(history())
    code = f"import os; from rm_toolkit.output.lock import WriterLock; WriterLock({str(folder)!r}); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == 9
    assert lock_path(folder).is_file() and read_run(folder).state == "stopped"


def test_a_run_that_cannot_be_seen_from_here_is_told_with_its_last_sign_of_life(run, tmp_path, capsys):
    folder = run(history())
    with WriterLock(folder):
        path = lock_path(folder)
        holder = {**json.loads(path.read_text()), "host": "<node7>", "machine": "another", "pid": os.getpid()}
        path.write_text(json.dumps(holder))
        assert main(["watch", str(folder), "--once"]) == 0
        assert re.search(
            r"run-watch.html: running on host <node7>, last sign of life \d s ago, step 4", capsys.readouterr().out
        )
        assert "on host &lt;node7&gt;, last sign of life" in (tmp_path / "run-watch.html").read_text()
        os.utime(path, (0, 0))
        assert read_run(folder).state == "stopped"


def test_names_of_data_are_text_and_nothing_else(run):
    folder = run(history(HOSTILE), name="<b>run & 'co'")
    page = watch_page(read_run(folder), 5)
    parsed = Page(page)
    assert not parsed.has("script") and not parsed.has("b", **{"class": "x"}) and "<script" not in page
    assert any(HOSTILE in text for text in parsed.text) and "<b>run & 'co'" in " ".join(parsed.text)


def test_values_that_are_no_numbers_are_left_out(run):
    logs = [*history(), {"step": 5, "loss": "x", "other": True}, {"step": 6, "loss": None, "new_loss": 1e300}]
    found = read_run(run(logs))
    assert [step for step, _ in found.series()["loss"]] == [2, 4] and "other" not in found.series()
    Page(watch_page(found, 5))
    assert "Nothing was logged yet" in watch_page(read_run(run([], name="begun")), 5)


@pytest.mark.parametrize("log", ["{", "[]", '{"log_history": 3}', '{"log_history": [{"loss": 1}]}'])
def test_a_damaged_log_is_named(run, log):
    folder = run([])
    (folder / "training_log.json").write_text(log)
    with pytest.raises(InputError, match=r"training_log.json is not a training log"):
        read_run(folder)


def test_a_folder_without_a_run_is_refused_in_words(tmp_path, capsys):
    assert main(["watch", str(tmp_path)]) == 2
    assert "is not the folder of a run: it has no `training_log.json`" in capsys.readouterr().err
    assert main(["watch", str(tmp_path / "none")]) == 2
    assert "there is no such folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_the_page_beside_the_folder_and_ends_with_the_run(run, tmp_path, capsys, monkeypatch):
    folder = run(history())
    assert main(["watch", str(folder)]) == 0
    assert (tmp_path / "run-watch.html").is_file() and "stopped, step 4 of 8" in capsys.readouterr().out
    with WriterLock(folder):
        assert main(["watch", str(folder), "--once", "--output", str(tmp_path / "mine.html")]) == 0
    assert "running" in (tmp_path / "mine.html").read_text()
    assert main(["watch", str(folder), "--output", str(tmp_path)]) == 2
    (tmp_path / "notes.txt").write_text("mine")
    assert main(["watch", str(folder), "--output", str(tmp_path / "notes.txt")]) == 2
    assert (tmp_path / "notes.txt").read_text() == "mine"
    monkeypatch.chdir(folder)
    before = sorted(path.name for path in folder.iterdir())
    assert main(["watch", "."]) == 0 and sorted(path.name for path in folder.iterdir()) == before


def test_a_chart_keeps_its_peaks_and_its_ticks_are_round():
    points = [(float(n), 0.0) for n in range(10_000)]
    points[4321] = (4321.0, 9.0)
    points[8765] = (8765.0, -9.0)
    kept = thinned(points)
    assert len(kept) < 500 and points[4321] in kept and points[8765] in kept and kept == sorted(kept)
    assert nice_ticks(0.13, 0.87) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert nice_ticks(-3, 41) == pytest.approx([-20, 0, 20, 40, 60])
    for lines in ({"one": [(0, 0.5)]}, {"flat": [(0, 0.0), (5, 0.0)]}, {"tiny": [(1, 1e-9), (2, 1.0000001e-9)]}):
        assert "nan" not in line_chart(lines, "x", max(step for points in lines.values() for step, _ in points))


@pytest.fixture
def browser():
    """The system's Chromium, without a window."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("there is no Chromium here")
    with playwright.sync_playwright() as driver:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        running = driver.chromium.launch(executable_path=path, args=flags)
        yield running
        running.close()


def test_a_browser_shows_the_page_and_reads_it_again(run, browser):
    folder = run(history(HOSTILE))
    page = folder.parent / "page.html"
    said = []
    with WriterLock(folder):
        page.write_text(watch_page(read_run(folder), 1), encoding="utf-8")
    tab = browser.new_page(viewport={"width": 1600, "height": 900}, color_scheme="dark")
    tab.on("console", lambda message: said.append(message.text))
    tab.on("pageerror", lambda error: said.append(str(error)))
    tab.on("dialog", lambda dialog: said.append(dialog.message))
    tab.goto(page.as_uri())
    assert tab.locator("svg polyline").count() == 6 and HOSTILE in tab.locator("tbody").inner_text()
    for width in (1600, 800):
        tab.set_viewport_size({"width": width, "height": 900})
        assert tab.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), width
    page.write_text(watch_page(read_run(folder), 1), encoding="utf-8")  # meanwhile, the run was killed
    tab.get_by_text("stopped before its end").wait_for(timeout=10_000)
    assert said == []
