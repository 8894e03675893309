"""The page of an evaluation in a real browser: what a reader can do, and what hostile data cannot do."""

import json
import socket

import numpy as np
import pytest
from browser import Tab, opened_browser
from conftest import pair_rows
from made_evaluation import made_evaluation

from rm_toolkit.evaluation import page as page_module
from rm_toolkit.evaluation.figures import draw_figures
from rm_toolkit.evaluation.page import write_page
from rm_toolkit.evaluation.pair_rows import Judged, judged_sets
from rm_toolkit.evaluation.preferences import PreferencePairs
from rm_toolkit.output.page import content


MARK = "window.hit=1"
HOSTILE = (
    f"</script><script>{MARK}</script><!-- <img src=x onerror={MARK}> <svg onload={MARK}> \" ' ` &amp; ${{1}} \\u003c "
    "\u2028\u2029\ufeff\u202eabc\u2066\u200b\x1b\ud7ff {{x}} é 漢字 😀"
)
TAGGED = {
    "domain": lambda k: ("law", "art")[k % 2],
    "rejected_domain": lambda k: ("sport", "art", "law")[k % 3],
    "source": lambda k: "dsp",
    "prompt_id": lambda k: str(k // 2),
}
CHAT = {
    "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Rain in Bern?"}],
    "chosen": [
        {
            "role": "assistant",
            "content": "Let me look.",
            "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"place": "Bern"}}}],
        },
        {"role": "tool", "name": "weather", "content": "rain"},
        {"role": "assistant", "content": "It rains in Bern, so take an umbrella with you today."},
    ],
    "rejected": [{"role": "assistant", "content": "It rains in Bern, so take a hat with you today."}],
    "tools": [{"type": "function", "function": {"name": "weather"}}],
}


def rewards(first):
    """Rewards with known margins: text 2k minus 2k + 1 is `first(k)`, and 100 in the set `easy`."""
    return lambda name, text: 0.0 if text % 2 else 100.0 if name == "easy" else first(text // 2)


@pytest.fixture(scope="module")
def browser():
    with opened_browser() as found:
        yield found


@pytest.fixture
def write(tmp_path):
    """`write(sets, models, **options)`: writes a page without figures; returns its path."""

    def go(sets, models, *, figures=False, **options):
        found = made_evaluation(sets, models, cut=lambda text: "cut me" in text)
        found.metrics["command"] = ["rm-toolkit", "evaluate", "--model", HOSTILE.replace("\n", " ")]
        drawn = {"": [], **{model: [] for model in models}}
        if figures:
            drawn = draw_figures(found.metrics, found.tables, found.rewards, found.curves, tmp_path / "figures")
        path = tmp_path / "report.html"
        write_page(found.metrics, judged_sets(found.tables, found.rewards, found.cut), drawn, path, **options)
        return path

    return go


def test_a_reader_sorts_filters_searches_and_moves_by_keys(browser, write):
    rows = pair_rows(120, **TAGGED)
    rows[7]["rejected"] = "The only zebra, and no other word."
    models = {"grft": rewards(lambda k: k - 60), "crft": rewards(lambda k: 60 - k)}
    tab = Tab(browser, write({"mine": rows, "easy": pair_rows(3, seed=1)}, models), hash="#view=pairs")
    assert tab.pair == "mine/0" and tab.texts(".pager span") == ["1–50 of 123"]
    assert tab.texts(".list li .margin")[:2] == ["−60.00", "+60.00"]
    for key, pair in (
        ("j", "mine/1"),
        ("j", "mine/2"),
        ("k", "mine/1"),
        ("n", "mine/50"),
        ("G", "easy/2"),
        ("g", "mine/0"),
    ):
        tab.keyboard.press(key)
        tab.wait_pair(pair)
    tab.keyboard.press("w")
    tab.wait("document.querySelector('.summary').textContent.startsWith('60 of 123 pairs')")
    tab.locator("select[name=domain]").select_option("art")
    tab.locator("select[name=rejected_domain]").select_option("sport")
    tab.locator("select[name=set]").select_option("mine")
    tab.wait("document.querySelector('.summary').textContent.startsWith('10 of 123 pairs')")  # 3, 9, 15, …, 57
    tab.locator("input[name=max]").fill("-50.5")
    tab.keyboard.press("Tab")
    tab.wait("document.querySelectorAll('.list li').length === 2")
    tab.evaluate("document.activeElement.blur()")
    tab.keyboard.press("x")
    tab.wait("document.querySelector('.summary').textContent.startsWith('123 pairs')")
    tab.keyboard.press("/")
    tab.keyboard.type('ZEBRA "no other word"')
    tab.wait_pair("mine/7")
    assert tab.texts(".pager span") == ["1–1 of 1"]
    tab.keyboard.press("Escape")
    tab.keyboard.press("l")
    tab.wait("document.querySelector('#toast')?.textContent === 'Link copied'")
    link = tab.evaluate("navigator.clipboard.readText()")
    tab.keyboard.press("c")
    tab.wait("document.querySelector('#toast').textContent === 'Pair copied'")
    copied = json.loads(tab.evaluate("navigator.clipboard.readText()"))
    assert (copied["set"], copied["pair"], copied["prompt_id"], copied["rejected"]) == (
        "mine",
        7,
        "3",
        rows[7]["rejected"],
    )
    assert copied["models"]["grft"] == {
        "reward_chosen": -53, "reward_rejected": 0, "margin": -53, "p": pytest.approx(0, abs=1e-20),
        "truncated_chosen": False, "truncated_rejected": False,
    }  # fmt: skip
    tab.keyboard.press("?")
    assert tab.locator("dialog.help").is_visible()
    tab.keyboard.press("Escape")
    tab.open("#" + link.partition("#")[2])
    assert tab.pair == "mine/7" and tab.texts(".pager span") == ["1–50 of 123"]
    tab.locator("select[name=sort]").select_option("disputed")
    tab.wait_pair("mine/0")
    tab.keyboard.press("m")
    tab.wait("document.querySelector('select[name=model]').value === 'crft'")
    assert tab.texts(".verdicts tbody th") == ["crft", "grft"]
    tab.keyboard.press("r")
    assert tab.locator("#report-view").is_visible() and tab.locator("#pairs-view").is_hidden()
    tab.get_by_role("link", name="0.4").first.click()
    tab.wait("document.querySelector('select[name=verdict]')?.value === 'wrong'")
    tab.close()


@pytest.mark.slow
def test_hostile_data_stays_text_in_every_field(browser, write):
    sets = {
        HOSTILE + "1": [
            {
                "prompt": HOSTILE, "chosen": HOSTILE + " cut me", "rejected": "No. " + HOSTILE, "prompt_id": HOSTILE,
                "domain": HOSTILE, "rejected_domain": "b" + HOSTILE, "source": HOSTILE, "margin": 1.5,
            },
            {
                "prompt": "p", "chosen": "x" * 1_000_000, "rejected": "<b>" * 400_000, "prompt_id": None,
                "domain": "b" + HOSTILE, "rejected_domain": HOSTILE, "source": "c" + HOSTILE, "margin": None,
            },
        ],
        "chat": [
            {
                "prompt": [{"role": HOSTILE, "content": HOSTILE}],
                "chosen": [
                    {"role": "assistant", "content": HOSTILE, "name": HOSTILE,
                     "tool_calls": [{"function": {"name": HOSTILE, "arguments": {HOSTILE: HOSTILE}}}]},
                ],
                "rejected": [{"role": "assistant", "content": HOSTILE + "."}],
            }
        ],
    }  # fmt: skip
    models = {HOSTILE: rewards(lambda k: 0.0), "b" + HOSTILE: rewards(lambda k: -1.0)}
    for options in ({}, {"largest": 0}):
        path = write(sets, models, **options)
        tab = Tab(browser, path)
        report = tab.locator("#report-view").text_content()
        assert f"</script><script>{MARK}</script>" in report
        tab.get_by_role("tab", name="Pairs").click()
        for pair in range(3):
            tab.wait("document.querySelectorAll('.list li').length === 3")
            tab.locator(".list li").nth(pair).click()
            tab.wait(f"document.querySelectorAll('.list li')[{pair}].getAttribute('aria-selected') === 'true'")
            tab.wait("document.querySelectorAll('.responses').length === 1")
            tab.wait_for_timeout(200)
            shown = tab.locator(".detail").text_content()
            assert "U+202E" in shown and "U+2066" in shown
            assert tab.locator(".detail :is(script, img, svg)").count() == 0
        assert tab.evaluate("window.hit") is None
        assert tab.evaluate("document.querySelectorAll('body script:not([type])').length") == 1
        check_reaches_no_network(tab)
        tab.close()


def check_reaches_no_network(tab):
    """Checks that even a script in the page itself cannot reach the network."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        assert tab.evaluate(f"fetch('{address}').then(() => 'sent', () => 'refused')") == "refused"
        tab.evaluate(f"document.body.append(Object.assign(new Image(), {{src: '{address}'}}))")
        tab.wait_for_timeout(200)
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert len(tab.complaints) >= 2 and all("Content Security Policy" in text for text in tab.complaints)
    tab.complaints.clear()
    tab.asked.clear()


@pytest.mark.slow
def test_messages_tools_differences_and_ranked_rows_are_shown(browser, write):
    ranked = [{"prompt": "p", "completions": ["best", "good", "also good", "bad"], "scores": [2.0, 1.0, 1.0, 0.0]}]
    path = write({"chat": [CHAT]}, {"rm": rewards(lambda k: -1.0)})
    tab = Tab(browser, path, hash="#view=pairs")
    assert tab.texts(".prompt .role") == ["system", "user"]
    assert tab.texts(".response.chosen .role") == ["assistant", "tool", "assistant"]
    assert "calls weather" in tab.texts(".chosen .part-label")
    assert json.loads(tab.locator(".chosen .part.json").text_content()) == {"place": "Bern"}
    assert tab.locator("details.template summary").text_content() == "Tools that the model may call"
    assert "hat" in " ".join(tab.texts("mark.only-rejected")) and "rains" not in " ".join(tab.texts("mark"))
    tab.keyboard.press("d")
    tab.wait("document.querySelectorAll('mark').length === 0")
    tab.close()
    path = write({"ranked": ranked}, {"rm": lambda name, text: 0.0})
    tab = Tab(browser, path, hash="#view=pairs&verdict=tie")
    assert tab.texts(".pager span") == ["1–5 of 5"] and tab.texts(".verdict") == ["equal"]
    tab.get_by_role("button", name="All 5 pairs of this prompt").click()
    tab.wait("location.hash.includes('prompt=0')")
    tab.close()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [800, 1600])
def test_nothing_is_wider_than_the_window_and_both_schemes_can_be_read(browser, write, width, scheme):
    rows = pair_rows(60, **TAGGED)
    rows[0]["chosen"] = "W" * 3000
    models = {name: rewards(lambda k, shift=shift: k - 30 - shift) for shift, name in enumerate(("grft", "a" * 90))}
    tab = Tab(browser, write({"mine": rows, "b" * 90: rows}, models, figures=True), width=width, scheme=scheme)
    assert tab.overflow <= 0
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
    ink = tab.evaluate("getComputedStyle(document.body).color.match(/\\d+/g).map(Number)[0]")
    assert (ground - ink > 150) if scheme == "light" else (ink - ground > 150)
    assert tab.locator("figure img").count() == 10
    tab.locator("figure img").last.scroll_into_view_if_needed()
    tab.wait("[...document.images].at(-1).naturalWidth === 1200")
    heading = tab.locator("thead button").nth(0)
    heading.click()
    assert tab.locator("th[aria-sort=ascending]").count() == 1
    tab.get_by_role("tab", name="Pairs").click()
    tab.wait_pair("mine/0")
    assert tab.overflow <= 0
    tab.close()


def test_lengths_are_those_that_each_model_reads(browser, tmp_path):
    """As if a text model and a chat model judge one set: only the text model reads the leading space."""
    rows = [
        {"prompt": "Which?", "chosen": " " + "a" * 7, "rejected": "b" * 10}
    ]  # 8 : 10, and 7 : 10 without the space
    chat = [{key: [{"role": "assistant", "content": text.strip()}] for key, text in row.items()} for row in rows]
    found = made_evaluation({"mine": rows}, {"grft": lambda name, k: k})
    other = made_evaluation({"mine": chat}, {"crft": lambda name, k: k})
    for part in ("tables", "rewards", "cut"):
        getattr(found, part).update(getattr(other, part))
    for part in ("models", "results"):
        found.metrics[part].update(other.metrics[part])
    judged = judged_sets(found.tables, found.rewards, found.cut)
    write_page(found.metrics, judged, {"": [], "grft": [], "crft": []}, tmp_path / "report.html")
    tab = Tab(browser, tmp_path / "report.html")
    links = [link for link in tab.locator("a").evaluate_all("all => all.map((a) => a.hash)") if "ratio=" in link]
    for model, characters in (("grft", "8 : 10 (×0.80)"), ("crft", "7 : 10 (×0.70)")):
        own = [link for link in links if f"model={model}" in link]
        parts = found.metrics["results"][model]["mine"]["length"]["by_ratio"]
        assert [part["num_pairs"] for part in parts[1:3]] == ([0, 1] if model == "grft" else [1, 0])
        for part, link in zip(parts[1:3], own[1:3], strict=True):
            tab.open(link)
            assert tab.texts(".pager span") == (["1–1 of 1"] if part["num_pairs"] else ["0–0 of 0"]), (model, part)
            if part["num_pairs"]:
                assert characters in tab.locator(".chips").text_content()
                assert tab.texts(".list .tags")[0].endswith(characters[-5:-1])
                assert tab.texts(".detail .reading") == [
                    "Shown as grft reads it; crft reads the same pair in another format."
                ]
    tab.close()


@pytest.mark.slow
def test_a_large_page_reads_its_texts_from_beside_it_and_finds_the_last_of_them(browser, write):
    rows = pair_rows(3000, **TAGGED)
    rows[2999]["chosen"] = "A needle."
    path = write({"mine": rows}, {"rm": rewards(lambda k: k)}, largest=100_000)
    assert (path.parent / "report_files" / "texts-0.js").is_file() and path.stat().st_size < 150_000
    tab = Tab(browser, path, hash="#view=pairs&q=needle")
    assert tab.pair == "mine/2999"
    names = {url.rpartition("/")[2] for url in tab.asked}
    assert {"pairs.js", "texts-0.js", "prompts-2.js"} <= names and "prompts-0.js" not in names
    tab.close()
    (path.parent / "report_files" / "texts-0.js").unlink()
    tab = Tab(browser, path, hash="#view=pairs")
    assert "report_files/texts-0.js cannot be read" in tab.locator(".detail .empty").text_content()
    assert any("ERR_FILE_NOT_FOUND" in complaint for complaint in tab.complaints)
    tab.complaints.clear()
    tab.close()


@pytest.mark.slow
def test_a_hundred_thousand_pairs_open_in_three_seconds(browser, tmp_path, monkeypatch):
    number = 100_000
    completions = [f"{'river stone lantern window garden ' * (1 + k % 13)}{k}" for k in range(2 * number)]
    numbers = np.arange(2 * number)
    table = PreferencePairs(
        "mine",
        [f"## Human:\nWhich {k // 2}?\n\n## Assistant:\n" for k in range(2 * number)],
        completions,
        numbers[::2],
        numbers[1::2],
        np.arange(number),
        {"domain": np.array(["law", "art"] * (number // 2), dtype=object)},
        number,
        prompt_ids=[f"{k:016x}" for k in range(number)],
    )
    rewards = np.random.default_rng(0).normal(size=(2, 2 * number)).astype(np.float32).astype(np.float64)
    judged = [Judged(name, table, own, numbers % 50 == 0) for name, own in zip(("grft", "crft"), rewards)]
    monkeypatch.setattr(page_module, "report_content", lambda *_: {**content.page("Many", []), "pairs": True})
    write_page({}, {"mine": judged}, {}, tmp_path / "report.html")
    size = sum(path.stat().st_size for path in (tmp_path / "report_files").iterdir())
    tab = Tab(browser, tmp_path / "report.html", hash="#view=pairs")
    seconds = tab.evaluate("performance.now()") / 1000
    print(f"\n{number:,} pairs, {size / 1e6:.0f} MB: the first pair is shown after {seconds:.2f} s")
    assert tab.texts(".pager span") == ["1–50 of 100,000"]
    margins = rewards[0][::2] - rewards[0][1::2]
    assert tab.pair == f"mine/{margins.argmin()}" and seconds < 3
    tab.close()
