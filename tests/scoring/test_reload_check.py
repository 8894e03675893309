"""A saved folder is opened as other programs would open it, and a reward that differs is an error."""

from __future__ import annotations

import json
import os
import stat

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from rm_toolkit.errors import InputError
from rm_toolkit.scoring.example import read_example
from rm_toolkit.scoring.reload_check import check_reload, check_texts, read_rewards
from rm_toolkit.scoring.scorer import RewardScorer
from rm_toolkit.training import reloading


def corrupt_head(folder):
    path = folder / "model.safetensors"
    weights = load_file(path)
    weights["score.weight"] = weights["score.weight"].flip(-1)
    save_file(weights, path, metadata={"format": "pt"})


def test_a_fresh_process_reads_the_same_rewards_and_notices_a_corrupt_head(make_trainer, rows, tmp_path):
    trainer = make_trainer(rows.pairs(8), lm_loss_coef=0.1)
    trainer.train()
    trainer.save_model()
    assert trainer.reload_check() == 3  # chosen, rejected, and an over-long text
    example = read_example(tmp_path / "run")  # used to check a server
    scorer = RewardScorer(tmp_path / "run", device="cpu")
    assert scorer.score([example.prompt], [example.completion]) == pytest.approx([example.reward], abs=1e-6)
    trainer.save_model()
    assert read_example(tmp_path / "run") is None  # a model that was saved again may have other rewards
    corrupt_head(tmp_path / "run")
    with pytest.raises(InputError, match=r"reload check failed: text 0 has reward .* Do not publish this folder"):
        trainer.reload_check()


# ---- the same check in this process, for every pooling ----


@pytest.fixture
def in_this_process(monkeypatch):
    """Runs the check without a fresh process, which takes seconds to start."""

    def check(folder, texts, rewards, *, tolerance, trust_remote_code):
        assert tolerance == 1e-5 and not trust_remote_code
        found = read_rewards(str(folder), texts)
        assert found == pytest.approx(rewards, rel=tolerance, abs=tolerance)
        checked.append((texts, found))
        return found

    checked = []
    monkeypatch.setattr(reloading, "check_reload", check)
    return checked


def chat_rows(number, rows):
    def reply(text):
        return [{"role": "assistant", "content": text}]

    return [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "chosen": reply(row["chosen"]),
            "rejected": reply(row["rejected"]),
        }
        for row in rows.pairs(number)
    ]


@pytest.mark.parametrize("pooling_type", ["last", "eos", "average", "max"])
@pytest.mark.parametrize("architecture, data_format", [("llama", "text"), ("qwen3", "chat"), ("llama", "chat")])
def test_every_pooling_and_format_reads_back(
    make_trainer, base_model, rows, in_this_process, architecture, data_format, pooling_type
):
    data = chat_rows(4, rows) if data_format == "chat" else rows.pairs(4)
    trainer = make_trainer(data, base_model(architecture), pooling_type=pooling_type, data_format=data_format)
    trainer.train()
    trainer.save_model()
    assert trainer.reload_check() == 3
    texts, rewards = in_this_process[0]
    assert abs(rewards[0] - rewards[1]) > 1e-3
    assert isinstance(texts[0], str if data_format == "text" else list)


def test_a_merged_adapter_reads_back(make_trainer, rows, in_this_process):
    adapter = LoraConfig(r=4, init_lora_weights=False)
    trainer = make_trainer(rows.pairs(4), peft_config=adapter)
    trainer.train()
    trainer.save_model()
    assert trainer.reload_check() == 3


def test_ranked_rows_and_rows_without_a_prompt_give_texts_to_check(make_trainer, rows, in_this_process):
    for data in (rows.ranked(3), [{"chosen": "river stone", "rejected": "lantern"}] * 2):
        trainer = make_trainer(data)
        trainer.save_model()
        trainer.reload_check()
        texts = in_this_process[-1][0]
        assert texts[0] == (data[0].get("prompt", "") + (data[0].get("completions") or [data[0]["chosen"]])[0])


@pytest.mark.parametrize("completion", ["word", "", "two words"])
def test_one_text_is_longer_than_the_model_reads(make_trainer, rows, completion):
    texts = check_texts([("prompt ", completion)], max_length=20)
    assert len(texts[-1][1].split()) > 20
    chat = check_texts([([], [{"role": "assistant", "content": completion}])], max_length=20)
    assert len(chat[-1][1][-1]["content"].split()) > 20


# ---- the process itself ----


@pytest.fixture
def interpreter(tmp_path):
    """`interpreter(answer)`: a stand-in for Python that writes its environment, and returns rewards or fails."""

    def make(answer):
        path = tmp_path / "python"
        body = f"echo '{json.dumps(answer)}' > \"$5\"" if isinstance(answer, list) else f"echo '{answer}' >&2; exit 1"
        path.write_text(f"#!/bin/sh\nenv > {tmp_path}/environment\n{body}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    return make


@pytest.mark.parametrize(
    "expected, found, equal",
    [
        (1.0, 1.000009, True),
        (1.0, 1.00002, False),
        (0.0, 0.000009, True),
        (100.0, 100.0009, True),  # above 1, the tolerance is relative
        (100.0, 100.002, False),
        (1.0, float("nan"), False),
    ],
)
def test_tolerance(interpreter, tmp_path, expected, found, equal):
    if equal:
        assert check_reload(tmp_path, ["text"], [expected], python=interpreter([found])) == [found]
    else:
        with pytest.raises(InputError, match="reload check failed: text 0"):
            check_reload(tmp_path, ["text"], [expected], python=interpreter([found]))


def test_a_folder_that_does_not_open_is_an_error_with_the_reason(interpreter, tmp_path):
    with pytest.raises(InputError, match="cannot be opened in a fresh process: it is no model"):
        check_reload(tmp_path, ["text"], [0.0], python=interpreter("it is no model"))


def test_the_process_is_not_drawn_into_the_running_job(interpreter, tmp_path, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT", "ACCELERATE_USE_DEEPSPEED", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "1")
    check_reload(tmp_path, ["text"], [0.0], python=interpreter([0.0]))
    names = {line.split("=")[0] for line in (tmp_path / "environment").read_text().splitlines()}
    assert not names & {"RANK", "WORLD_SIZE", "MASTER_PORT", "ACCELERATE_USE_DEEPSPEED", "TORCHELASTIC_RUN_ID"}
    assert {"HF_HUB_OFFLINE", "PATH"} <= names and "RANK" in os.environ


def test_rewards_are_read_as_raw_numbers(make_trainer, rows, tmp_path):
    trainer = make_trainer(rows.pairs(2))
    with torch.no_grad():
        trainer.model.base_classifier.score.weight.mul_(50)
    trainer.save_model()
    (low,), (high,) = (read_rewards(str(tmp_path / "run"), [text]) for text in ("river", "stone lantern"))
    assert max(abs(low), abs(high)) > 1  # no sigmoid was applied


@pytest.mark.parametrize(
    ("last_words", "place"),
    [
        ("OSError: [Errno 28] No space left on device", r"\S+rm-toolkit-scratch\S+"),
        ("OSError: [Errno 28] No space left on device: '/full/rewards.json'", "/full/rewards.json"),
    ],
)
def test_a_fresh_process_without_room_says_so(tmp_path, last_words, place):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "{last_words}" >&2\nexit 1\n')
    python.chmod(0o755)
    with pytest.raises(
        InputError, match=rf"could not be checked in a fresh process\. {place}: the disk is full\. Make"
    ):
        check_reload(tmp_path, ["text"], [0.0], python=str(python))
