"""A row that the chat template refuses is reported with its file and line, or left out and counted."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from rm_toolkit.data.build import BuildOptions, build, save
from rm_toolkit.data.mixture import load_datasets
from rm_toolkit.errors import InputError
from rm_toolkit.evaluation import evaluate
from rm_toolkit.scoring.scorer import RewardScorer
from rm_toolkit.training.refused import leave_out_refused, refusals_located


# Like Gemma's and Mistral's, which require alternating turns.
STRICT = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate.') }}{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SAID = r"the tokenizer's chat template refuses some of the messages: Roles must alternate\. Change the data"


def said(role, text):
    return {"role": role, "content": text}


def row(number, odd=False):
    asked = [said("user", f"river {number}?")] * (2 if odd else 1)
    return {
        "prompt": asked,
        "chosen": [said("assistant", "stone")],
        "rejected": [said("assistant", f"lantern {number}")],
    }


ROWS = [row(0), row(1), row(2, odd=True), row(3)]


@pytest.fixture
def reader(base_model):
    tokenizer = AutoTokenizer.from_pretrained(base_model("qwen3"))
    tokenizer.chat_template = STRICT
    return tokenizer


@pytest.fixture
def strict_model(reward_model, reader, tmp_path):
    from shutil import copytree

    folder = copytree(reward_model("qwen3", data_format="chat"), tmp_path / "strict")
    reader.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def given(write_rows, tmp_path):
    """SPECs of the same rows, as a file and as a built dataset, each with the place of its third row."""
    path = write_rows("rows.jsonl", ROWS)
    save(build("jsonl", [path], BuildOptions(format="chat", test_size=0)), tmp_path / "built")
    built = str(tmp_path / "built")
    return [({"path": path, "source": "jsonl"}, "rows.jsonl, line 3"), ({"path": built, "split": "train"}, "row 3")]


@pytest.fixture
def write_rows(tmp_path):
    import json

    def make(name, rows):
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return make


def recipe_of(**specs):
    return SimpleNamespace(**{"train_datasets": {}, "eval_datasets": {}, "replay_datasets": {}, **specs})


def test_training_names_file_and_line(given, make_trainer, base_model, reader, caplog):
    caplog.set_level(logging.WARNING, logger="rm_toolkit")
    options = {"data_format": "chat", "processing_class": reader}
    good = [ROWS[0]]
    for spec, place in given:
        rows = load_datasets({"d": spec}, "train", format="chat")["d"]
        for use in ("train_datasets", "eval_datasets"):
            own = (rows, {"d": good}) if use == "train_datasets" else (good, {"d": rows})
            with (
                pytest.raises(InputError, match=rf"dataset 'd': .*{place}: {SAID}"),
                refusals_located(recipe_of(**{use: {"d": spec}})),
            ):
                make_trainer(own[0], base_model("qwen3"), eval_rows=own[1], **options)
        with pytest.raises(InputError, match=rf"dataset 'train', row 3: {SAID}"):  # rows from Python have no file
            make_trainer(rows, base_model("qwen3"), **options)
        for skip, number in ((False, 4), (True, 3)):
            kept = leave_out_refused({"d": rows}, {"d": {**spec, "skip_invalid": skip}}, reader, "chat")["d"]
            assert len(kept) == number
        assert len(make_trainer(kept, base_model("qwen3"), **options).train_data) == 3
    assert caplog.text.count("1 rows are left out that the chat template refuses; the first: dataset 'd', row 3") == 2
    with pytest.raises(InputError, match="none of the 1 rows can be used"):
        leave_out_refused({"d": rows.select([2])}, {"d": {**spec, "skip_invalid": True}}, reader, "chat")


def test_a_stream_names_the_row_or_leaves_it_out(given, make_trainer, base_model, reader, caplog):
    caplog.set_level(logging.WARNING, logger="rm_toolkit")
    options = {"data_format": "chat", "processing_class": reader, "max_steps": 1, "per_device_train_batch_size": 3}
    spec = given[0][0]
    for skip in (False, True):
        specs = {"d": {**spec, "skip_invalid": skip}}
        streams = load_datasets(specs, "train", format="chat", streaming=True)
        stream = leave_out_refused(streams, specs, reader, "chat")["d"]
        if skip:
            make_trainer(stream, base_model("qwen3"), **options).train()
            assert f"left out of 'd': {SAID[:40]}" in caplog.text
        else:
            with pytest.raises(InputError, match=rf"row 3: {SAID}"):
                make_trainer(stream, base_model("qwen3"), **options)


def test_evaluation_names_file_and_line_or_leaves_the_row_out_for_all_models(given, strict_model, reward_model):
    options = {"resamples": 10, "show_progress": False, "split": "train"}
    for spec, place in given:
        with pytest.raises(InputError, match=rf"test set 't': .*{place}: {SAID}"):
            evaluate([strict_model], {"t": spec}, **options)
    with pytest.raises(InputError, match=rf"test set 't', row 3: {SAID}"):
        evaluate([strict_model], {"t": Dataset.from_list(ROWS)}, **options)
    models = {"lenient": reward_model("qwen3", data_format="chat"), "strict": strict_model}
    metrics = evaluate(models, {"t": {**given[0][0], "skip_invalid": True}}, **options).metrics
    assert metrics["datasets"]["t"]["num_refused"] == 1 and metrics["datasets"]["t"]["num_pairs"] == 3
    lenient = evaluate([models["lenient"]], {"t": {**given[0][0], "skip_invalid": True}}, **options).metrics
    assert "num_refused" not in lenient["datasets"]["t"] and lenient["datasets"]["t"]["num_pairs"] == 4


def test_the_scorer_names_the_row(strict_model):
    scorer = RewardScorer(strict_model, device="cpu")
    prompts = [row["prompt"] for row in ROWS]
    with pytest.raises(InputError, match=rf"row 3 of 4: {SAID}"):
        scorer.score(prompts, [[row["chosen"], row["rejected"]] for row in ROWS])


# ---- a prompt that is rendered differently if an answer follows ----

# Removes thoughts from answers, and opens one in the generation prompt, like DeepSeek-R1's.
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
WANTS_ANSWER = "{% if messages[-1].role == 'user' %}{{ raise_exception('no') }}{% endif %}" + STRICT


@pytest.mark.parametrize(("template", "prompt"), [(THINKING, "<|im_start|>assistant\n"), (WANTS_ANSWER, "")])
def test_the_common_beginning_is_the_prompt_and_its_rows_are_counted(
    template, prompt, make_trainer, base_model, reader, caplog
):
    caplog.set_level(logging.WARNING, logger="rm_toolkit")
    reader.chat_template = template
    rows = [ROWS[0], ROWS[1], {**row(4), "prompt": []}]
    if prompt:
        rows[2]["chosen"] = [said("user", "river"), said("assistant", "stone")]
    options = {"data_format": "chat", "processing_class": reader, "max_length": 128, "lm_loss_coef": 0.1}
    if not prompt:
        rows = rows[:2]
    trainer = make_trainer(rows, base_model("qwen3"), lm_loss_on="completion", **options)
    data = trainer.train_data
    assert data.num_partial_prompts == 2
    assert "renders the prompt of 2 rows differently when the answer follows" in caplog.text
    start = data.completion_start[data.better[0]]
    whole = "<|im_start|>user\nriver 0?<|im_end|>\n<|im_start|>assistant\n"
    assert reader.decode(data.sequence(data.better[0])[:start]) == (whole if prompt else "")
    caplog.clear()
    trainer = make_trainer(rows, base_model("qwen3"), **options)  # a loss on the whole text needs no prompt
    assert trainer.train_data.num_partial_prompts == 0 and "renders the prompt" not in caplog.text
