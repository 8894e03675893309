"""Every page: its links and paths exist, and the programs accept its commands."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
from pathlib import Path

import pytest
import yaml

import rm_toolkit
from rm_toolkit.cli import COMMANDS
from rm_toolkit.training.recipe import GROUPS, parse_recipe


ROOT = Path(__file__).parents[1]
PAGES = [
    "README.md",
    "data/README.md",
    "recipes/README.md",
    "recipes/examples/README.md",
    "recipes/examples/support-tone/README.md",
    "recipes/examples/chat-with-tools/README.md",
    "recipes/examples/best-of-n/README.md",
    "accelerate_configs/README.md",
    "benchmarks/README.md",
    "benchmarks/published/README.md",
    "rm_toolkit/README.md",
    "rm_toolkit/models/README.md",
    "rm_toolkit/scoring/README.md",
    "rm_toolkit/evaluation/README.md",
    "rm_toolkit/hub/README.md",
    "rm_toolkit/merging/README.md",
]
MOST_BYTES = 9000  # limit of the first page
FOLDERS = ("rm_toolkit", "recipes", "accelerate_configs", "benchmarks", "tests", "data")


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub names them."""
    titles = re.findall(r"(?m)^#+ (.+)$", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def commands(page: str) -> list[str]:
    """Command lines in fenced `bash` blocks and in code spans that begin with one of our programs."""
    text = read(page)
    found = []
    for block in re.findall(r"```(?:bash|shell)\n(.*?)```", text, re.DOTALL):
        joined = block.replace("\\\n", " ")
        lines, whole = joined.splitlines(), ""
        for line in lines:
            whole += line
            try:  # a quoted argument may continue in the next line
                shlex.split(whole, comments=True)
            except ValueError:
                whole += "\n"
                continue
            found += [
                part.strip() for part in re.split(r"&&", whole) if part.strip() and not part.strip().startswith("#")
            ]
            whole = ""
    spans = re.findall(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    found += [" ".join(span.split()) for span in spans]
    return [line for line in found if line.startswith(("rm-toolkit ", "accelerate launch ", "python "))]


def check_toolkit(words: list[str]) -> None:
    """Checks that the command parses: every flag is known, and every required one is given."""
    module = importlib.import_module(COMMANDS[words[1]][0])
    parser = argparse.ArgumentParser(exit_on_error=False)
    module.add_arguments(parser)
    parser.error = lambda message: pytest.fail(f"{shlex.join(words)}: {message}")
    try:
        _, unknown = parser.parse_known_args(words[2:])
    except SystemExit as ended:  # `--help` and the like
        assert not ended.code
        return
    assert not unknown or getattr(module, "TAKES_RECIPE_FLAGS", False), f"{shlex.join(words)}: {unknown}"


def check_recipe(words: list[str]) -> None:
    """Checks that the recipe and its configs exist, and that the flags are fields of its settings."""
    script = next(word for word in words if word.endswith(".py"))
    assert (ROOT / script).is_file(), script
    at = words.index(script)
    for number, word in enumerate(words[:at]):
        if word == "--config_file":
            assert (ROOT / words[number + 1]).is_file(), words[number + 1]
    if Path(script).stem in ("grft", "crft"):
        flags = [*words[at + 1 :], "--use_cpu", "true"]  # without a GPU, a recipe for one is refused
        parse_recipe(ROOT / "recipes" / "tiny" / f"{Path(script).stem}.yaml", flags, groups=GROUPS)


def check_script(words: list[str]) -> None:
    """Checks that the script exists and knows the flags."""
    script = ROOT / words[1]
    assert script.is_file(), words[1]
    sources = [script, *(ROOT / "benchmarks" / "speed").glob("*.py"), *(ROOT / "rm_toolkit").rglob("*.py")]
    text = "".join(path.read_text(encoding="utf-8") for path in sources)
    for flag in (word for word in words[2:] if word.startswith("--") and word != "--help"):
        name = flag.split("=")[0]
        assert f'"{name}"' in text or re.search(rf"\b{name[2:]}: ", text), f"{words[1]} has no {name}"


LISTED = [(page, line) for page in PAGES for line in dict.fromkeys(commands(page))]


@pytest.mark.parametrize(("page", "line"), LISTED, ids=[f"{page}: {line[:60]}" for page, line in LISTED])
def test_commands_on_the_pages_are_ones_that_the_programs_take(page, line, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(line, comments=True)
    if "…" in line or "[" in words[1]:
        words = words[: next((n for n, word in enumerate(words) if "…" in word), len(words))]
    if words[0] == "rm-toolkit":
        assert words[1] in COMMANDS, words[1]
        if "…" not in line and len(words) > 2:
            check_toolkit(words)
    elif words[0] == "accelerate":
        if any(word.endswith(".py") for word in words):
            check_recipe(words)
    elif words[1].endswith(".py"):
        check_script(words)


@pytest.mark.parametrize("page", PAGES)
def test_links_and_paths_on_the_pages_lead_somewhere(page):
    text, folder = read(page), (ROOT / page).parent
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        linked = (folder / path).resolve() if path else ROOT / page
        assert linked.exists(), f"{page}: {target}"
        if anchor:
            assert anchor in anchors(linked), f"{page}: {target}"
    named = set(re.findall(rf"(?<![\w/.-])(?:{'|'.join(FOLDERS)})/[\w./-]*\w", text))
    missing = sorted(
        name
        for name in named
        if not (ROOT / name).exists() and not (folder / name).exists() and "*" not in name and ":" not in name
    )
    assert not missing, f"{page} names {missing}"


def test_every_page_of_a_room_is_checked_and_the_first_one_is_short():
    pages = {str(path.relative_to(ROOT)) for top in FOLDERS for path in (ROOT / top).rglob("README.md")}
    outside = {page for page in pages if page.startswith(("tests/", "outputs/"))}
    assert pages - outside - set(PAGES) == set()
    assert len(read("README.md").encode()) < MOST_BYTES


def test_the_citation_names_this_version_and_the_paper():
    citation = yaml.safe_load(read("CITATION.cff"))
    assert citation["version"] == rm_toolkit.__version__
    assert citation["preferred-citation"]["url"].rpartition("/")[2] in read("README.md")
