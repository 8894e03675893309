"""The worked examples: their data, recipes and pages; and, as slow tests, every command on their pages as written."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from reward_server import ServedState, reward_server

from rm_toolkit.cli import main
from rm_toolkit.models.tokenizer import load_tokenizer
from rm_toolkit.training import stages
from rm_toolkit.training.recipe import parse_recipe


ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "recipes" / "examples"
NAMES = ("support-tone", "chat-with-tools", "best-of-n")
MOST_BYTES = 300_000  # limit per data file, as people should read it


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def load(name: str):
    """Imports `make_data.py` of an example."""
    specification = importlib.util.spec_from_file_location("make_data", EXAMPLES / name / "make_data.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def splits(name: str) -> tuple[str, str]:
    return ("train", "candidates" if name == "best-of-n" else "test")


@pytest.fixture(scope="module")
def data():
    """The committed rows of both files of each example."""
    return {name: [rows(EXAMPLES / name / f"{split}.jsonl") for split in splits(name)] for name in NAMES}


def said(answer) -> str:
    """The text of an answer, as one string."""
    return answer if isinstance(answer, str) else json.dumps(answer)


def pairs(row: dict) -> list[tuple[str, str]]:
    """(better, worse) answers of a row, in any of the three forms."""
    if "completions" in row:
        scored = list(zip(row["completions"], row["scores"]))
        return [(a, b) for a, score_a in scored for b, score_b in scored if score_a > score_b]
    better, worse = ("in_tone", "off_tone") if "in_tone" in row else ("chosen", "rejected")
    return [(said(row[better]), said(row[worse]))]


def test_every_example_is_complete():
    assert {path.name for path in EXAMPLES.iterdir() if path.is_dir()} == set(NAMES)
    for name in NAMES:
        assert {"README.md", "crft.yaml", "make_data.py", "parts.yaml", "train.jsonl"} <= {
            path.name for path in (EXAMPLES / name).iterdir()
        }
        assert all(path.stat().st_size < MOST_BYTES for path in (EXAMPLES / name).iterdir() if path.is_file())


@pytest.mark.parametrize("name", NAMES)
def test_the_data_are_made_again_exactly(name, data):
    module = load(name)
    for split, committed in zip(splits(name), data[name]):
        assert module.build(split) == committed


@pytest.mark.parametrize("name", NAMES)
def test_the_length_of_an_answer_does_not_give_it_away(name, data):
    for split in data[name]:
        compared = [pair for row in split for pair in pairs(row)]
        longest = sum((len(a) > len(b)) + 0.5 * (len(a) == len(b)) for a, b in compared) / len(compared)
        assert 0.42 <= longest <= 0.58, longest


@pytest.mark.parametrize("name", NAMES)
def test_no_question_is_trained_and_tested_on(name, data):
    asked = [{said(row.get("question") or row["prompt"]) for row in split} for split in data[name]]
    assert asked[0] and asked[1] and not asked[0] & asked[1]


def test_the_test_sets_ask_of_what_was_not_trained_on():
    issues = yaml.safe_load((EXAMPLES / "support-tone/parts.yaml").read_text(encoding="utf-8"))["issues"]
    lines = [{text for issue in issues[split] for texts in issue.values() for text in texts} for split in issues]
    items = {item for split in issues.values() for issue in split for item in issue.get("items", [])}
    assert not (lines[0] & lines[1]) - items
    terms = yaml.safe_load((EXAMPLES / "best-of-n/parts.yaml").read_text(encoding="utf-8"))["terms"]
    assert not {entry["term"] for entry in terms["train"]} & {entry["term"] for entry in terms["candidates"]}


def test_a_better_answer_with_tools_is_a_right_call_or_keeps_to_the_result(data):
    for row in [*data["chat-with-tools"][0], *data["chat-with-tools"][1]]:
        listed = {tool["function"]["name"]: tool["function"]["parameters"] for tool in row["tools"]}
        calls = [call["function"] for message in row["chosen"] for call in message.get("tool_calls", [])]
        for call in calls:
            assert list(call["arguments"]) == listed[call["name"]]["required"]
            asked = row["prompt"][0]["content"].lower()
            assert all(value.lower() in asked for value in call["arguments"].values()), row
        if row["kind"] == "not the result":
            number = set(re.findall(r"\d+", row["prompt"][-1]["content"]))
            assert number & set(re.findall(r"\d+", row["chosen"][0]["content"]))
            assert row["chosen"] != row["rejected"]
        if row["kind"] == "hidden error":
            assert json.loads(row["prompt"][-1]["content"])["error"] in row["chosen"][0]["content"].lower()


@pytest.mark.parametrize("name", NAMES)
def test_the_recipe_of_an_example_reads_its_data(name, data, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    flags = ["--use_cpu", "true", "--dataset_cache_dir", str(tmp_path), "--general_replay_fraction", "0"]
    flags += ["--anchor_coef", "0"]
    recipe, training, model = parse_recipe(EXAMPLES / name / "crft.yaml", flags)
    (own, *general) = recipe.eval_datasets
    assert general == ["helpful", "harmless"] == list(recipe.replay_datasets)
    recipe.eval_datasets = {own: recipe.eval_datasets[own]}
    train, evaluation, _ = stages.load_stage_data(recipe, training)
    assert [len(train[own]), len(evaluation[own])] == [len(split) for split in data[name]]
    assert model.model_name_or_path.startswith("outputs/") and training.output_dir.startswith("outputs/")


@pytest.mark.parametrize(
    "path", sorted(EXAMPLES.glob("*/*qwen*.yaml")), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_the_recipe_for_a_real_model_differs_from_the_tiny_one_in_settings_alone(path):
    recipe, training, model = parse_recipe(path, ["--use_cpu", "true", "--bf16", "false"])
    stage = "grft" if path.stem.endswith("grft") else "crft"
    tiny, tiny_training, _ = parse_recipe(path.parent / f"{stage}.yaml", ["--use_cpu", "true"])
    assert not recipe.tiny_base and model.model_name_or_path
    (own, spec), *_ = tiny.eval_datasets.items()
    assert list(recipe.train_datasets) == list(tiny.train_datasets) and list(recipe.eval_datasets) == [
        *tiny.eval_datasets
    ]
    if stage == "crft":
        assert recipe.train_datasets == tiny.train_datasets and recipe.eval_datasets[own] == spec
    for name in ("data_format", "pooling_type", "general_replay_fraction", "anchor_coef"):
        assert getattr(training, name) == getattr(tiny_training, name), name
    assert training.pairs_per_step % training.per_device_train_batch_size == 0
    assert path.read_text(encoding="utf-8").startswith("# ")


def test_the_chat_template_renders_every_tool_call_and_result(data, base_model, tmp_path):
    tokenizer = load_tokenizer(base_model())
    tokenizer.chat_template = (EXAMPLES / "chat-with-tools/chat_template.jinja").read_text(encoding="utf-8")
    for row in {row["kind"]: row for row in data["chat-with-tools"][1]}.values():
        better, worse = (
            tokenizer.apply_chat_template(row["prompt"] + row[side], tools=row["tools"], tokenize=False)
            for side in ("chosen", "rejected")
        )
        prompt = tokenizer.apply_chat_template(row["prompt"], tools=row["tools"], tokenize=False)
        assert better.startswith(prompt) and worse.startswith(prompt) and better != worse
        assert all(tool["function"]["name"] in prompt for tool in row["tools"])
        values = [value for message in row["prompt"] + row["chosen"] for call in message.get("tool_calls", ())
                  for value in call["function"]["arguments"].values()]  # fmt: skip
        assert all(value in better for value in values)
        assert better.endswith("</s>") and better.startswith("<s>## tools")
    opened = tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
    assert opened.endswith("## assistant\n") and "## tools" not in opened


def pick(scored: Path, best: Path) -> str:
    command = [sys.executable, str(EXAMPLES / "best-of-n/pick.py"), str(scored), str(best)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_best_of_n_are_the_same_here_and_behind_a_server(reward_model, data, tmp_path):
    folder = reward_model("llama")
    asked = tmp_path / "candidates.jsonl"
    asked.write_text("".join(json.dumps(row) + "\n" for row in data["best-of-n"][1][:3]))
    score = ["score", "--model", folder, "--input", str(asked), "--template", "human-assistant"]
    assert main([*score, "--output", str(tmp_path / "here.jsonl")]) in (0, None)
    with reward_server(ServedState(folder)) as address:
        main([*score, "--output", str(tmp_path / "there.jsonl"), "--endpoint", address])
    printed = pick(tmp_path / "here.jsonl", tmp_path / "a.jsonl")
    assert pick(tmp_path / "there.jsonl", tmp_path / "b.jsonl").replace("b.jsonl", "a.jsonl") == printed
    best = rows(tmp_path / "a.jsonl")
    for row, taken in zip(rows(tmp_path / "here.jsonl"), best, strict=True):
        assert taken["reward"] == max(row["reward"])
        assert row["reward"][row["completions"].index(taken["completion"])] == taken["reward"]
    assert [row["completion"] for row in rows(tmp_path / "b.jsonl")] == [row["completion"] for row in best]
    scores = [row["scores"] for row in data["best-of-n"][1][:3]]
    assert f"{sum(map(max, scores)) / 3:5.2f}  the best answer there is" in printed


# ---- the pages

NOT_RUN = re.compile(r"<!-- not run: (.+?) -->\n")


def blocks(name: str) -> list[tuple[str, str]]:
    """`(commands, reason not to run them)` for each block of commands on a page, in order."""
    text = (EXAMPLES / name / "README.md").read_text(encoding="utf-8")
    found = re.findall(rf"((?:{NOT_RUN.pattern})?)```(?:bash|shell)\n(.*?)```", text, re.DOTALL)
    return [(commands, reason) for _, reason, commands in found]


def table(name: str) -> dict[str, list[str]]:
    """The rows of all tables on a page, by their first cell."""
    lines = (EXAMPLES / name / "README.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    return {row[0]: row[1:] for row in cells}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A folder that looks like a fresh checkout; the examples share the general model that the first one trains."""
    folder = tmp_path_factory.mktemp("checkout")
    for entry in ("recipes", "data", "accelerate_configs"):
        (folder / entry).symlink_to(ROOT / entry)
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_a_page_says_why_a_command_is_not_run(name):
    assert any(not reason for _, reason in blocks(name))
    assert all(len(reason) > 10 for _, reason in blocks(name) if reason)


@pytest.mark.slow
@pytest.mark.launch
@pytest.mark.parametrize("name", NAMES)
def test_the_commands_of_a_page_run_as_written_and_give_its_numbers(name, checkout):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(checkout / "cache"), "PATH": path}
    for commands, reason in blocks(name):
        for line in () if reason else commands.replace("\\\n", " ").splitlines():
            if line == "accelerate launch recipes/grft.py" and (checkout / "outputs/grft/config.json").exists():
                continue  # the previous page has trained it
            result = subprocess.run(
                ["bash", "-c", line], cwd=checkout, env=environment, capture_output=True, text=True, timeout=900
            )
            assert result.returncode == 0, f"{line}\n{result.stdout[-3000:]}{result.stderr[-3000:]}"
    recipe = yaml.safe_load((EXAMPLES / name / "crft.yaml").read_text(encoding="utf-8"))
    results = json.loads((checkout / recipe["output_dir"] / "final_eval_results.json").read_text())
    for own in results["start"]:
        before, after = (float(cell) for cell in table(name)[own][:2])
        assert before == pytest.approx(results["start"][own]["accuracy"], abs=0.06), own
        assert after == pytest.approx(results["end"][own]["accuracy"], abs=0.06), own
    own = next(iter(results["start"]))
    assert results["end"][own]["accuracy"] > results["start"][own]["accuracy"] + 0.10
    if name == "best-of-n":
        judged = rows(checkout / "outputs/best-of-n/scored.jsonl")
        taken = [row["scores"][row["reward"].index(max(row["reward"]))] for row in judged]
        assert sum(taken) / len(taken) == pytest.approx(
            float(table(name)["the one that the judge likes best"][0]), abs=0.3
        )
    for general in ("helpful", "harmless"):
        assert results["end"][general]["accuracy"] > results["start"][general]["accuracy"] - 0.08


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shown"),
    [("support-tone", ("longest", "word", "bag")), ("chat-with-tools", ("bag",)), ("best-of-n", ("longest", "bag"))],
)
def test_trivial_rules_reach_what_the_page_says(name, shown, data, monkeypatch):
    pytest.importorskip("sklearn")
    monkeypatch.syspath_prepend(str(ROOT / "data"))
    import sample_metrics

    train, test = ([pair for row in part for pair in pairs(row)] for part in data[name])
    found = {
        "longest": sample_metrics.longest_wins(test),
        "word": sample_metrics.best_word(train, test)[2],
        "bag": sample_metrics.bag_of_words(train, {"test": test})["test"],
    }
    page = (EXAMPLES / name / "README.md").read_text(encoding="utf-8")
    for rule in shown:
        assert f"{found[rule]:.2f}".removeprefix("0") in page, f"{rule}: {found[rule]}"
