"""Models of 0.2.1 can be merged, planned, evaluated, used to score, published, trained further and overwritten."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from v0_2_1.conftest import SCORED, TRAINED
from v0_2_1.test_opening import flat, prompts_of

from rm_toolkit import RewardScorer, load_datasets
from rm_toolkit.cli import main


SCORE = ["score", "--model", "text", "--input", "rows/answers.jsonl", "--window", "4", "--device", "cpu", "--output"]


# ---- merge, plan, evaluate ----


@pytest.mark.slow
def test_two_folders_are_merged(old, expected, capsys):
    command = ["merge", "--general", "text", "--customized", "customized", "--weight", "0.5", "--output", "merged"]
    assert main(command) == 0
    assert "texts give the same rewards in a fresh process" in capsys.readouterr().out
    found = RewardScorer("merged", device="cpu").score(expected["prompts"], expected["completions"])
    assert flat(found) == pytest.approx(flat(expected["rewards"]["merged"]), **SCORED)


@pytest.mark.parametrize("name", ["customized", "lora", "encoder"])
def test_a_run_from_it_is_planned(old, capsys, name):
    (old / "cpu.yaml").write_text("{distributed_type: 'NO', use_cpu: true, num_processes: 1}\n")
    assert main(["plan", "--config", f"recipes/{name}.yaml", "--accelerate-config", "cpu.yaml"]) == 0
    assert "parameters" in capsys.readouterr().out


def test_it_is_evaluated_to_the_same_numbers(old, state_of, capsys):
    sets = ["pairs={path: rows/pairs.test.jsonl, source: jsonl}"]
    sets += ["literature={path: rows/dsp.test.json, source: dsp, domain: literature}"]
    command = ["evaluate", "--model", "text", "--resamples", "50", "--device", "cpu", "--datasets", *sets]
    before = state_of("report")
    assert main([*command, "--output", "report"]) == 2
    assert "report" in capsys.readouterr().err and state_of("report") == before
    assert main([*command, "--output", "report", "--overwrite"]) == 0
    found = json.loads((old / "report" / "metrics.json").read_text())["results"]["text"]
    recorded = json.loads(before["metrics.json"])["results"]["text"]
    for name, numbers in recorded.items():
        assert found[name]["accuracy"] == pytest.approx(numbers["accuracy"], abs=1e-9)
        for key in ("num_pairs", "num_ties", "num_label_ties", "margin", "loss", "brier", "ece", "longer_wins"):
            assert found[name][key] == pytest.approx(numbers[key], abs=1e-5), (name, key)


def test_a_built_folder_is_read(old):
    rows = load_datasets({"pairs": "built"}, "train")["pairs"]
    source = [json.loads(line) for line in (old / "rows" / "pairs.train.jsonl").read_text().splitlines()]
    assert [row["chosen"] for row in rows] == [row["chosen"] for row in source]


# ---- score ----


def rewards_in(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def assert_scored_as_recorded(path, recorded):
    found = rewards_in(path)
    assert [{**row, "reward": None} for row in found] == [{**row, "reward": None} for row in recorded]
    assert flat(row["reward"] for row in found) == pytest.approx(flat(row["reward"] for row in recorded), **SCORED)


def stand_where_it_was_made(old, name):
    """Gives a journal the model identity that 0.2.1 would have written here: a hash over path, sizes and times."""
    parts = ["float32", f"={old / 'text'}"]
    for path in sorted((old / "text").iterdir()):
        if path.suffix in (".safetensors", ".json", ".model"):
            parts.append(f"{path.name}:{path.stat().st_size}:{path.stat().st_mtime_ns}")
    journal = Path(f"scores/{name}.jsonl.run.json")
    content = json.loads(journal.read_text())
    content["run"]["model"] = f"text {hashlib.sha256(repr(parts).encode()).hexdigest()[:16]}"
    journal.write_text(json.dumps(content, indent=1))


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("name", ["finished", "killed"])
def test_an_output_of_score_goes_on_or_is_refused_in_words(old, state_of, capsys, name, moved):
    recorded = rewards_in("scores/finished.jsonl")
    if not moved:
        stand_where_it_was_made(old, name)
    before = state_of("scores")
    code = main([*SCORE, f"scores/{name}.jsonl"])
    printed = capsys.readouterr()
    if code == 2:
        assert "it is from another run: `model` was" in printed.err and "--overwrite" in printed.err
        assert state_of("scores") == before
        assert main([*SCORE, f"scores/{name}.jsonl", "--overwrite"]) == 0
    else:
        assert code == 0 and not moved
        assert (
            f"14 rows, {8 if name == 'killed' else 14} of them by an earlier run" in printed.out or name == "finished"
        )
    assert_scored_as_recorded(f"scores/{name}.jsonl", recorded)
    assert not Path(f"scores/{name}.jsonl.partial").exists()


# ---- collect ----


def test_a_journal_of_collect_is_not_asked_again(old, monkeypatch, capsys):
    pytest.importorskip("openai")
    from llm_server import llm_server

    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    before = json.loads(Path("collected/dsp.json").read_text())
    command = ["collect", "--input", "rows/alpaca.json", "--domains", "rows/domains.yaml", "--model", "tiny-chat"]
    with llm_server() as (address, state):
        command += ["--base-url", address, "--output", "collected/dsp.json", "--overwrite"]
        code = main(command)
    assert code == 0, capsys.readouterr().err
    assert not state.asked
    assert json.loads(Path("collected/dsp.json").read_text()) == before


# ---- push ----


@pytest.fixture
def pushed(old, hub):
    """`pushed(folder, *flags)`: files in the repository after `rm-toolkit push`, by name."""

    def push(folder, *flags):
        assert main(["push", "--model", folder, "--repo-id", f"tester/{folder}", *flags]) == 0
        return hub.models[f"tester/{folder}"].files

    return push


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
@pytest.mark.slow
def test_it_is_published_and_what_is_no_file_of_a_model_stays(old, pushed, capfd):
    shutil.copytree("text/checkpoint-6", "customized/checkpoint-6")
    (old / "customized" / "notes.txt").write_text("for myself")
    files = pushed("customized")
    assert set(files) == {
        *("README.md", "rm_toolkit.json", "final_eval_results.json", "training_log.json", ".rm_toolkit_push.json"),
        *("config.json", "model.safetensors", "lm_head/model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        ".gitattributes",
    }
    assert files["model.safetensors"] == (old / "customized" / "model.safetensors").read_bytes()
    assert str(old).encode() not in b"".join(files.values())
    assert "dsp_literature" in files["README.md"].decode()
    assert "notes.txt" in "".join(capfd.readouterr())


PUSHED = {
    "chat": ((), "tokenizer.json"),
    "encoder": ((), "model.safetensors"),
    "average": ((), "model.safetensors"),
    "lora": (("--adapter", "--base-model", "tester/text"), "adapter_model.safetensors"),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
@pytest.mark.parametrize("folder", PUSHED)
def test_every_kind_is_published(old, pushed, folder):
    flags, needed = PUSHED[folder]
    files = pushed(folder, *flags)
    assert needed in files and not [name for name in files if "checkpoint" in name or name.endswith((".pt", ".pth"))]
    assert str(old).encode() not in b"".join(files.values())


# ---- the next stage, and the same run again ----


def test_the_next_stage_starts_from_it(recipe, expected, ending, assert_ends_as):
    """CRFT with replay, anchor and LM loss from `text` ends as with 0.2.1, and records both stages."""
    assert recipe("crft", "customized", "--output_dir", "again") == 0
    assert_ends_as(ending("again"), expected["endings"]["customized"])
    lineage = json.loads(Path("again/rm_toolkit.json").read_text())["lineage"]
    assert [entry["stage"] for entry in lineage] == ["grft", "crft"]
    assert lineage[0] == json.loads(Path("text/rm_toolkit.json").read_text())["lineage"][0]


def test_lora_on_it_comes_to_the_same_adapter(recipe, expected, ending, assert_ends_as):
    assert recipe("crft", "lora", "--output_dir", "again") == 0
    assert_ends_as(ending("again"), expected["endings"]["lora"])


@pytest.mark.slow
def test_a_finished_folder_is_overwritten_and_the_user_s_files_stay(recipe, old, expected, ending, assert_ends_as):
    """The only run here with the reload check in a fresh process."""
    folder = old / "text"
    users = {"notes.txt": "for myself", "README.md": "my card", "runs/events.out.tfevents.1": "my log"}
    (folder / "runs").mkdir()
    for name, content in users.items():
        (folder / name).write_text(content)
    (folder / "final_eval_results.json").write_text("{}")
    assert recipe("grft", "text", "--overwrite_output_dir", "--save_strategy", "no", reload_check=True) == 0
    assert_ends_as(ending("text"), expected["endings"]["text"])
    assert {name: (folder / name).read_text() for name in users} == users
    assert not list(folder.glob("checkpoint-*"))


def test_a_folder_that_no_run_wrote_is_not_overwritten(recipe, old, state_of, capfd):
    before = state_of(old / "rows")
    assert recipe("grft", "text", "--output_dir", "rows", "--overwrite_output_dir") == 2
    assert "rows" in capfd.readouterr().err and state_of(old / "rows") == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["chat", "encoder", "average"])
def test_the_runs_of_0_2_1_end_in_the_same_numbers(recipe, expected, ending, assert_ends_as, monkeypatch, name):
    # Later versions pool the EOS too when they begin to train a model with `average`; the rest is as before.
    monkeypatch.setattr("rm_toolkit.training.wrapping._pools_eos", lambda model, before: False)
    assert recipe("grft", name, "--output_dir", "again") == 0
    assert_ends_as(ending("again"), expected["endings"][name])
    found = RewardScorer("again", device="cpu").score(prompts_of(expected, name), expected["completions"])
    assert flat(found) == pytest.approx(flat(expected["rewards"][name]), **TRAINED)
