"""The programs of benchmarks/published, on files of the released forms with rows of our own."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from datasets import Dataset
from transformers import AutoTokenizer

from rm_toolkit.batches.tokenization import tokenize_preferences
from rm_toolkit.evaluation.pair_rewards import PairRewards, write_pair_rewards


ROOT = Path(__file__).parents[1]
WORDS = ["river", "stone", "apple", "green", "quiet", "seven", "window", "paper", "orange", "cloud"]


@pytest.fixture
def programs(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks/published")
    monkeypatch.chdir(ROOT)


@pytest.fixture
def files(tmp_path):
    """A folder as the authors released it: `good` marks the better text, and each domain's answer has the domain's name."""
    folder, draw = tmp_path / "files", random.Random(0)
    folder.mkdir()

    def words(count):
        return " ".join(draw.choices(WORDS, k=count))

    for name in ("helpful", "harmless", "webgpt"):
        rows = [
            {"text": [f"\n\nHuman: {words(6)}\n\nAssistant: {mark} {words(4)}" for mark in ("good", "poor")]}
            for _ in range(40)
        ]
        for row in rows:
            prompt = row["text"][0].split("Assistant:")[0]
            row["text"][1] = prompt + "Assistant:" + row["text"][1].split("Assistant:")[1]
            row["score"] = [1.0, 0.0]
        (folder / f"{name}.test.json").write_text(json.dumps(rows))
    domains = ("academy", "business", "entertainment", "literature", "normal")
    rows = [{"query": words(6), "responses": {d: f"{d} {words(5)}" for d in domains}} for _ in range(40)]
    (folder / "domain_specific_preference.test.json").write_text(json.dumps(rows))
    return folder


def held_out_of(folder, name):
    from datasets import load_from_disk

    return set(load_from_disk(folder / "data" / name)["test"]["prompt"])


def test_the_data_is_split_by_prompt_twice_and_a_word_model_finds_the_mark(programs, files, tmp_path, capsys):
    import baselines
    import build_datasets
    from datasets import load_from_disk

    build_datasets.main([str(files), "--output", str(tmp_path / "data")])
    held_out = set(load_from_disk(tmp_path / "data/helpful")["test"]["prompt_id"])
    rest = load_from_disk(tmp_path / "data/tuning/helpful")
    parts = [set(rest[split]["prompt_id"]) for split in ("train", "test")]
    assert [len(held_out), *map(len, parts)] == [8, 29, 3] and not parts[0] & parts[1]
    assert not held_out & (parts[0] | parts[1])
    rows = load_from_disk(tmp_path / "data/helpful")["train"]
    assert {row["prompt"]: row["completions"] for row in rows} == {
        row["prompt"]: row["completions"] for part in ("train", "test") for row in rest[part]
    }

    third = load_from_disk(tmp_path / "data/tuning-third/helpful")
    assert [len(third["train"]), len(third["test"])] == [21, 11]
    assert {row["prompt_id"] for part in third.values() for row in part} == parts[0] | parts[1]

    tagged = load_from_disk(tmp_path / "data/tagged")["train"]
    assert len(tagged) == 4 * 32 and not held_out_of(tmp_path, "dsp-academy") & {
        row["prompt"].split("\n", 1)[1] for row in tagged
    }
    for domain in ("academy", "literature"):
        (row, *_), best = load_from_disk(tmp_path / f"data/tagged-{domain}")["train"], f"{domain} "
        assert row["prompt"].startswith(f"Domain: {domain}\n")
        assert row["completions"][row["scores"].index(max(row["scores"]))].strip().startswith(best)

    capsys.readouterr()
    baselines.main(["--data", str(tmp_path / "data"), "--output", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["harmless"]["TF-IDF, trained on all general sets"][0] == 1.0
    assert found["dsp-literature"]["TF-IDF, trained on this set"][0] == 1.0
    assert found["helpful"]["longer answer wins"][0] < 1
    assert "| harmless | 8 | " in capsys.readouterr().out

    judged = {"harmless": PairRewards(np.arange(8.0), np.full(8, 2.5), np.arange(8))}
    write_pair_rewards(judged, tmp_path / "pairs.parquet")
    baselines.main(["--data", str(tmp_path / "data"), "--runs", f"mine={tmp_path}/pairs.parquet"])
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| harmless"))
    assert row.split(" | ")[-1].startswith("62.5 ± ")
    judged |= dict.fromkeys(("helpful", "webgpt"), judged["harmless"])
    write_pair_rewards(judged, tmp_path / "pairs.parquet")
    baselines.main(["--data", str(tmp_path / "data"), "--runs", f"mine={tmp_path}/pairs.parquet"])
    row = next(
        line for line in capsys.readouterr().out.splitlines() if line.startswith("| mine | TF-IDF, trained on all")
    )
    assert re.fullmatch(r"(\| -37\.5 ± \d+\.\d ){4}\|", row.split("sets ")[1])
    write_pair_rewards({"helpful": PairRewards(np.ones(3), np.zeros(3), np.arange(3))}, tmp_path / "pairs.parquet")
    with pytest.raises(SystemExit, match=r"'helpful' of .* does not have the pairs"):
        baselines.main(["--data", str(tmp_path / "data"), "--runs", f"mine={tmp_path}/pairs.parquet"])


def test_best_of_n_counts_every_choice_of_rivals(programs, tmp_path, capsys):
    """Two questions with four rivals: the first answer beats all of them, the second two; a third has three rivals only."""
    import best_of_n

    better = np.float32([1] * 8 + [9] * 3)
    worse = np.float32([0, 0, 0, 0, 0, 0, 2, 2] + [0] * 3)
    pairs = PairRewards(better, worse, np.array([5] * 4 + [6] * 4 + [7] * 3))
    taken = best_of_n.taken_of(pairs)
    expected = {2: [1, 1 / 2], 3: [1, 1 / 6], 4: [1, 0], 5: [1, 0]}
    assert {n: values.tolist() for n, values in taken.items()} == {n: pytest.approx(v) for n, v in expected.items()}

    for cell in ("grft--m--all--lm0--seed0", "crft--m--all--lm0--plain--law--seed0"):
        (tmp_path / "cells" / cell).mkdir(parents=True)
        write_pair_rewards({"dsp_law": pairs}, tmp_path / "cells" / cell / "pairs.parquet")
    reverse = PairRewards(worse, better, pairs.prompt)
    write_pair_rewards({"dsp_law": reverse}, tmp_path / "cells" / cell / "merged-0.5-pairs.parquet")
    best_of_n.main([str(tmp_path)])
    text = (tmp_path / "best_of_n.md").read_text()
    assert "| general | 75.0 [" in text and "| plain | 75.0 [" in text and "| merged 0.5 | 25.0 [" in text
    assert (tmp_path / "best_of_n_law.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(SystemExit, match="no finished CRFT cell"):
        best_of_n.main([str(tmp_path / "nowhere")])


def test_the_rewards_of_one_domain_tell_the_accuracy_on_all(programs, tmp_path, base_model):
    """Rewards 5 to 1 in the order of the answers; in the second question `normal` is best. A third lacks a rival."""
    import across_domains

    tokenizer = AutoTokenizer.from_pretrained(base_model())
    rewards = np.array([[5, 4, 3, 2, 1], [4, 3, 2, 1, 5]], dtype=np.float32)

    def of(domain):
        """Rewards as a run keeps them: of the pairs of two tokenized rows, and of one without `normal`."""
        scores = [float(name == domain) for name in across_domains.ANSWERS]
        texts = [str(k) for k in range(5)]
        rows = [{"prompt": f"question {n}", "completions": texts, "scores": scores} for n in range(2)]
        rows.append({"prompt": "question 2", "completions": texts[:4], "scores": scores[:4]})
        data = tokenize_preferences(
            Dataset.from_list(rows), tokenizer, max_length=64, name="test", show_progress=False, find_completions=False
        )
        # The answers are numbers, so a sequence says which of its row it is.
        said = [
            int(tokenizer.decode(data.sequence(k), skip_special_tokens=True)[-1]) for k in range(data.num_sequences)
        ]
        row_of = dict(zip([*data.better, *data.worse], [*data.row, *data.row]))
        found = [[*rewards, np.zeros(5)][row_of[k]][said[k]] for k in range(data.num_sequences)]
        return PairRewards.of(np.float32(found), data)

    for domain in across_domains.DOMAINS:
        assert np.array_equal(across_domains.answers_of(of(domain), domain), rewards)
        cell = tmp_path / f"cells/crft--m--all--lm0--plain--{domain}--seed0"
        cell.mkdir(parents=True)
        write_pair_rewards({f"dsp_{domain}": of(domain)}, cell / "pairs.parquet")
    across_domains.main([str(tmp_path)])
    text = (tmp_path / "across_domains.md").read_text()
    assert text.count("| 87.5 | 62.5 | 37.5 | 12.5 |") == 4 and "general" not in text


def test_the_first_layers_are_a_model_of_their_own(programs, base_model, tmp_path, capsys):
    import torch
    from first_layers import main
    from transformers import AutoModelForCausalLM

    output = tmp_path / "first"
    main([base_model(), "1", str(output)])
    whole, first = (AutoModelForCausalLM.from_pretrained(folder) for folder in (base_model(), output))
    ids = torch.tensor([AutoTokenizer.from_pretrained(output)("a green stone")["input_ids"]])
    after_one = whole.model.norm(whole.model(ids, output_hidden_states=True).hidden_states[1])
    assert first.config.num_hidden_layers == 1 < whole.config.num_hidden_layers
    assert torch.allclose(first.model(ids).last_hidden_state, after_one, atol=1e-6)
    with pytest.raises(SystemExit, match="is not empty"):
        main([base_model(), "1", str(output)])
    with pytest.raises(SystemExit, match="`layers` is 9, but"):
        main([base_model(), "9", str(tmp_path / "more")])


@pytest.mark.parametrize("pooling_type", ["average", "last"])
def test_rewards_by_hand_are_those_of_the_scorer(pooling_type, programs, files, base_model, tmp_path, capsys):
    import build_datasets
    import by_hand

    from rm_toolkit.models.reward_model import RewardModel
    from rm_toolkit.models.saving import save_reward_model
    from rm_toolkit.models.settings import RewardModelSettings
    from rm_toolkit.models.tokenizer import load_tokenizer, prepare_tokenizer

    build_datasets.build("text-score", files / "helpful.test.json", tmp_path / "helpful", 0.2, seed=0)
    model = RewardModel.from_pretrained(base_model(), RewardModelSettings(pooling_type=pooling_type, max_length=48))
    tokenizer = load_tokenizer(base_model())
    prepare_tokenizer(tokenizer, model.config, max_length=48, pooling_type=pooling_type)
    model.resize_token_embeddings(len(tokenizer))
    save_reward_model(model, tmp_path / "saved", tokenizer)
    capsys.readouterr()
    by_hand.main([str(tmp_path / "saved"), str(tmp_path / "helpful"), "--texts", "8"])
    found = re.search(r"8 texts of \d+ to 48 tokens, .* they differ by at most (\S+)\.\n", capsys.readouterr().out)
    assert found and float(found[1]) < 1e-5


def test_a_decoder_is_compared_with_trl_on_the_same_pairs(monkeypatch, files, base_model, tmp_path, capsys):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import against_trl

    data = str(files / "domain_specific_preference.test.json")
    flags = ["--data", data, "--model", base_model(), "--arms", "trl", "ours-last", "--queries", "16", "--seeds", "1"]
    flags += [
        "--learning-rates",
        "1e-2",
        "--max-length",
        "48",
        "--threads",
        "1",
        "--output",
        str(tmp_path / "runs.json"),
    ]
    against_trl.main(flags)
    runs = json.loads((tmp_path / "runs.json").read_text())["runs"].values()
    assert [(run["arm"], run["phase"]) for run in runs] == [
        (arm, phase) for arm in ("trl", "ours-last") for phase in ("tune", "final")
    ]
    assert {(run["train_pairs"], run["steps"]) for run in runs if run["phase"] == "final"} == {(52, 7)}
    assert capsys.readouterr().out.count("| 0.01 | ") == 2
    with pytest.raises(SystemExit, match="holds runs of other settings"):
        against_trl.main([*flags, "--bf16"])


@pytest.mark.slow
def test_a_study_in_forks_leaves_what_a_launched_one_does(base_model, tmp_path):
    """One GRFT run and one CRFT run with a merge; a run that fails is named and does not end the others."""
    tiny = {
        "model_name_or_path": base_model(),
        "max_length": 48,
        "max_steps": 2,
        "eval_on_start": False,
        "eval_strategy": "no",
        "use_cpu": True,
    }
    data = {"helpful": {"path": "data/samples/hh/helpful-base", "source": "hh", "fraction": 0.2}}
    literature, unseen = (
        {"path": f"data/samples/dsp.{split}.json", "source": "dsp", "domain": "literature", "fraction": 0.2}
        for split in ("train", "test")
    )
    study = {
        "output_dir": str(tmp_path / "study"),
        "base_models": {"tiny": tiny},
        "grft": {
            "config": "recipes/tiny/grft.yaml",
            "flags": {"eval_datasets": {**data, "dsp_literature": unseen}},
            "data": {"helpful": data},
        },
        "crft": {
            "config": "recipes/tiny/crft.yaml",
            "flags": {"train_datasets": {"dsp": literature}, "eval_datasets": {**data, "dsp_literature": unseen}},
            "strategies": {"other": {}, "broken": {"max_steps": 0, "num_train_epochs": -1}},
            "domains": ["literature"],
        },
        "merge_weights": [0.5],
        "merge_strategies": ["other"],
        "general_sets": ["helpful"],
        "customized_set": "dsp_{domain}",
    }
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    command = [sys.executable, "benchmarks/published/forked_study.py", "--config", str(tmp_path / "study.yaml")]

    def run(*flags):
        return subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True)

    first = run("--stage", "grft")
    assert first.returncode == 0, first.stderr
    cells = {path.name.split("--seed")[0]: path for path in (tmp_path / "study/cells").iterdir()}
    assert list(cells) == ["grft--tiny--helpful--lm0"]
    assert (cells["grft--tiny--helpful--lm0"] / "model/model.safetensors").is_file()
    assert run("--seconds", "0").returncode == 1 and len(list((tmp_path / "study/cells").iterdir())) == 1

    second = run()
    assert second.returncode == 1 and "broken--literature--seed0: failed" in second.stdout, second.stderr
    other = tmp_path / "study/cells/crft--tiny--helpful--lm0--other--literature--seed0"
    result = json.loads((other / "result.json").read_text())
    assert set(result["results"]["end"]) == {"helpful", "dsp_literature"} and "0.5" in result["merged"]
    assert "accelerate launch recipes/crft.py" in result["command"] and (other / "merged-0.5-pairs.parquet").is_file()
    report = (tmp_path / "study/README.md").read_text()
    assert "2 of 3 runs" in report and report.count("| other merged 0.5 |") == 2
