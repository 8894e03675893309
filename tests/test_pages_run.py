"""
Runs the commands and the Python code of every page as written, page by page, in a copy of the checkout.

A block that cannot run here has a line `<!-- not run: REASON -->` before it. The Hub, the language model and the
reward server of the pages are replaced by loopback servers.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_server import hub_server
from llm_server import llm_server
from reward_server import ServedState, reward_server
from test_pages import PAGES, ROOT


BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>.+?) -->\n)?```(?P<language>bash|shell|python)\n(?P<text>.*?)```", re.S
)
LONGEST = 900  # time limit of a block, in seconds
TOKEN = "hf_secret"


def blocks(page: str) -> list[tuple[str, str, str | None]]:
    """Language, text and reason not to run it, for each block of commands or Python."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [(found["language"], found["text"], found["reason"]) for found in BLOCK.finditer(text)]


def runnable(page: str) -> list[tuple[str, str]]:
    return [(language, text) for language, text, reason in blocks(page) if reason is None]


def test_every_reason_for_not_running_a_block_is_one_of_few_kinds():
    kinds = ("needs ", "takes ", "is yours", "it runs the tests", "the same")
    for page in PAGES:
        for language, text, reason in blocks(page):
            assert reason is None or any(kind in reason for kind in kinds), f"{page}: {reason}\n{language}\n{text}"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the files that git knows or would add, with the outputs of the first page."""
    folder = tmp_path_factory.mktemp("pages") / "rm_toolkit"
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in names:
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    rows = [{"prompt": "Name a colour.", "completion": ["Blue.", "No."], "domain": "literature"}]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows * 3))
    return folder


@pytest.fixture(scope="module")
def environment(checkout: Path) -> Iterator[dict[str, str]]:
    """Environment with this interpreter's programs, the copy's package, and a Hub on loopback."""
    with hub_server(TOKEN) as (address, _):
        yield {
            **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(checkout),
            "HF_ENDPOINT": address,
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(checkout.parent / "hub"),
            "OMP_NUM_THREADS": "1",
        }


def run(text: str, language: str, checkout: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, "-c", text] if language == "python" else ["bash", "-euo", "pipefail", "-c", text]
    result = subprocess.run(
        command, cwd=checkout, env=environment, capture_output=True, text=True, timeout=LONGEST, check=False
    )
    assert result.returncode == 0, f"{text}\n{result.stdout[-2000:]}\n{result.stderr[-3000:]}"
    assert "Traceback" not in result.stderr, result.stderr[-3000:]


def as_here(text: str, addresses: dict[str, str]) -> str:
    """Replaces addresses and Hub account in a block by those of the loopback servers, and leaves out installations."""
    for written, real in addresses.items():
        text = text.replace(written, real)
    text = re.sub(r"(?m)^(pip install|hf auth login).*\n", "", text)
    return re.sub(r"(?<=[ \"])you/", "tester/", text)


@pytest.fixture(scope="module")
def first_result(checkout: Path, environment: dict[str, str]) -> ServedState:
    """Runs the first block of the first page; returns the state of a server that serves its general model."""
    language, text = runnable(PAGES[0])[0]
    run(as_here(text, {}), language, checkout, environment)
    return ServedState(str(checkout / "outputs" / "grft"))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_and_the_python_of_a_page_run_as_they_are_written(page, checkout, environment, first_result):
    with llm_server(key="sk-secret") as (model, _), reward_server(first_result) as rewards:
        addresses = {"http://localhost:8000/v1": model, "Qwen/Qwen3-8B": "tiny-chat", "http://localhost:8000": rewards}
        for language, text in runnable(page)[page == PAGES[0] :]:
            # The examples' pages say to skip this line if its result is there, as it is here.
            text = text.replace("accelerate launch recipes/grft.py\n", "")
            run(as_here(text, addresses), language, checkout, {**environment, "OPENAI_API_KEY": "sk-secret"})
