"""A chat template that asks for the date: a run and everything made from it use one date, whatever the day."""

from __future__ import annotations

import datetime
import json
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import chat_template_utils

from rm_toolkit.batches import chat_clock
from rm_toolkit.batches.token_cache import TokenCache
from rm_toolkit.cli import main
from rm_toolkit.errors import InputError
from rm_toolkit.evaluation import evaluate
from rm_toolkit.merging.merge import merge_models
from rm_toolkit.models.settings import load_settings
from rm_toolkit.scoring.scorer import RewardScorer
from rm_toolkit.training.chat_date import dated_tokenizer
from rm_toolkit.training.recipe import GROUPS
from rm_toolkit.training.recipe_file import check_values
from rm_toolkit.training.sft import BaseLmConfig


FIRST, SECOND = "2026-03-05", "2026-12-24"
TEMPLATE = (
    "{% if strftime_now is defined %}{% set day = strftime_now('%d %b %Y') %}{% else %}{% set day = '26 Jul 2024' %}"
    "{% endif %}Today: {{ day }}\n{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def said(role, text):
    return [{"role": role, "content": text}]


ROWS = [
    {"prompt": said("user", f"river {n}?"), "chosen": said("assistant", "stone"), "rejected": said("assistant", word)}
    for n, word in enumerate(["lantern", "window", "garden", "letter"])
]
TEXTS = [[row["prompt"] for row in ROWS], [[row["chosen"], row["rejected"]] for row in ROWS]]


@pytest.fixture
def on(monkeypatch):
    """`on(date)`: sets both clocks, ours and that of transformers' templates, to that day."""

    def set_day(date):
        day = datetime.date.fromisoformat(date)

        class Date(datetime.date):
            today = classmethod(lambda cls: day)

        class Moment(datetime.datetime):
            now = classmethod(lambda cls, tz=None: cls(day.year, day.month, day.day, 12))

        monkeypatch.setattr(chat_clock, "datetime", SimpleNamespace(date=Date, datetime=datetime.datetime))
        monkeypatch.setattr(chat_template_utils, "datetime", Moment)

    return set_day


@pytest.fixture
def reader(base_model):
    tokenizer = AutoTokenizer.from_pretrained(base_model("qwen3"))
    tokenizer.chat_template = TEMPLATE
    return tokenizer


@pytest.fixture
def trained(make_trainer, base_model, reader, tmp_path):
    """`trained(name, model=None, **config)`: a trainer of two steps on chat rows."""

    def make(name, model=None, *, processing_class=reader, eval_rows=None, **config):
        options = {
            "data_format": "chat",
            "max_length": 128,
            "max_steps": 2,
            "per_device_train_batch_size": 2,
            **config,
        }
        options["output_dir"] = str(tmp_path / name)
        return make_trainer(
            ROWS, model or base_model("qwen3"), processing_class=processing_class, eval_rows=eval_rows, **options
        )

    return make


def stock_rewards(folder):
    """Rewards of each text from the stock classes, as other programs compute them."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    rewards = []
    for prompt, answers in zip(*TEXTS):
        ids = [tokenizer.apply_chat_template(prompt + a, return_dict=True, return_tensors="pt") for a in answers]
        with torch.no_grad():
            rewards.append([model(**one).logits.item() for one in ids])
    return rewards


def test_a_run_over_two_days_is_one_run_and_its_model_reads_one_date(on, trained, reader, tmp_path):
    on(FIRST)
    saving = {"save_strategy": "steps", "save_steps": 1}
    tests = {"test": ROWS}
    whole = trained("whole", eval_rows=tests, **saving)
    whole.train()
    whole.save_model()
    trained("again", eval_rows=tests, max_steps=1, **saving).train()
    assert reader.chat_template == TEMPLATE  # the user's own object is not changed

    on(SECOND)
    resumed = trained("again", eval_rows=tests, allow_changed_settings=True, **saving)
    assert resumed.model.settings.chat_date == SECOND
    resumed.train(resume_from_checkpoint=True)
    assert resumed.model.settings.chat_date == FIRST
    asked = trained("again", resume_from_checkpoint="auto")  # as recipes do, before any row is read
    assert asked.model.settings.chat_date == FIRST
    resumed.save_model()
    for folder in (tmp_path / "again", tmp_path / "again" / "checkpoint-1", tmp_path / "whole"):
        assert load_settings(str(folder)).chat_date == FIRST
        template = (folder / "chat_template.jinja").read_text()
        assert "strftime_now" not in template and "'05 Mar 2026'" in template
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "again"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    in_training = whole.compute_rewards(whole.eval_dataset["test"])
    assert (resumed.compute_rewards(resumed.eval_dataset["test"]) == in_training).all()

    folder, expected = str(tmp_path / "whole"), None
    rows = "".join(json.dumps({"prompt": p, "completions": c}) + "\n" for p, c in zip(*TEXTS))
    (tmp_path / "rows.jsonl").write_text(rows)
    for day in (FIRST, SECOND):
        on(day)
        scorer = RewardScorer(folder, device="cpu")
        rewards = scorer.score(*TEXTS)
        expected = expected or rewards
        assert rewards == expected and scorer.chat_date is None
        assert [pytest.approx(pair, abs=1e-5) for pair in rewards] == stock_rewards(folder)
        out = tmp_path / f"{day}.jsonl"
        assert main(["score", "--model", folder, "--input", str(tmp_path / "rows.jsonl"), "--output", str(out)]) == 0
        written = [json.loads(line)["reward"] for line in out.read_text().splitlines()]
        assert written == [pytest.approx(pair, abs=1e-5) for pair in expected]
        found = evaluate({"m": folder}, {"test": Dataset.from_list(ROWS)}, resamples=10, show_progress=False)
        assert found.metrics["models"]["m"]["chat_date"] == FIRST
        assert sorted(found.rewards["m"]["test"]) == pytest.approx(sorted(in_training), abs=1e-5)


def test_later_stages_adapters_and_merges_keep_the_date(on, trained, reader, tmp_path, monkeypatch):
    monkeypatch.setattr("rm_toolkit.hub.models.check_reload", lambda *args, **kwargs: None)
    on(FIRST)
    trainer = trained("general", max_steps=1)
    trainer.save_model()
    general = str(tmp_path / "general")
    on(SECOND)
    for given in (None, reader):  # the saved tokenizer, and one that asks for the date
        later = trained("later", general, processing_class=given, max_steps=1)
        assert later.model.settings.chat_date == FIRST
        assert (later.train_data.ids == trainer.train_data.ids).all()
    later.save_model()
    adapted = trained("adapted", general, processing_class=None, peft_config=LoraConfig(r=2), max_steps=1)
    adapted.save_model()
    assert load_settings(str(tmp_path / "adapted" / "adapter")).chat_date == FIRST
    merge_models(general, [tmp_path / "later"], [0.5], tmp_path / "merged", show_progress=False)
    assert load_settings(str(tmp_path / "merged")).chat_date == FIRST
    assert "'05 Mar 2026'" in (tmp_path / "merged" / "chat_template.jinja").read_text()
    with pytest.raises(
        InputError, match=f"`chat_date` is '{SECOND}', but the model was trained with the date {FIRST}"
    ):
        trained("other", general, processing_class=None, chat_date=SECOND)
    other = trained("other", max_steps=1)
    other.save_model()
    with pytest.raises(InputError, match=f"their `chat_date` differs: '{SECOND}' and '{FIRST}'"):
        merge_models(tmp_path / "other", [tmp_path / "later"], [0.5], tmp_path / "no", show_progress=False)


def test_an_adapter_on_a_base_that_reads_the_clock_brings_its_date(on, trained, reward_model, reader, tmp_path):
    base = foreign(reward_model, reader, tmp_path, own_settings=True)
    on(FIRST)
    trained("law", base, processing_class=None, peft_config=LoraConfig(r=2), max_steps=1).save_model()
    on(SECOND)
    law = str(tmp_path / "law" / "adapter")
    scorer = RewardScorer(base, adapters={"law": law}, device="cpu")
    assert scorer.chat_date is None and "'05 Mar 2026'" in scorer.tokenizer.chat_template
    trained("arts", base, processing_class=None, peft_config=LoraConfig(r=2), max_steps=1).save_model()
    with pytest.raises(
        InputError, match=f"`chat_date` of adapter 'arts' is '{SECOND}', that of adapter 'law' is '{FIRST}'"
    ):
        RewardScorer(base, adapters={"law": law, "arts": str(tmp_path / "arts" / "adapter")}, device="cpu")


def foreign(reward_model, reader, tmp_path, own_settings=False):
    """A model without a date, whose template asks for one."""
    from shutil import copytree

    folder = copytree(reward_model("qwen3", data_format="chat"), tmp_path / "foreign")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = reader.chat_template
    tokenizer.save_pretrained(folder)
    if not own_settings:
        (folder / "rm_toolkit.json").unlink()
    return str(folder)


def test_a_model_without_a_date_is_read_with_one_that_is_given_or_said(on, reward_model, reader, tmp_path, caplog):
    folder = foreign(reward_model, reader, tmp_path)
    on(SECOND)
    expected = stock_rewards(folder)
    found = RewardScorer(folder, device="cpu")
    assert found.score(*TEXTS) == [pytest.approx(pair, abs=1e-5) for pair in expected]
    assert f"reads today's, {SECOND}" in caplog.text and f"--chat-date {SECOND}" in caplog.text
    assert found.chat_date == SECOND
    on(FIRST)
    caplog.clear()
    assert RewardScorer(folder, device="cpu", chat_date=SECOND).score(*TEXTS) == found.score(*TEXTS)
    own = {"m": folder, "plain": reward_model("qwen3", data_format="chat")}
    options = {"resamples": 10, "show_progress": False, "chat_date": SECOND}
    metrics = evaluate(own, {"test": Dataset.from_list(ROWS)}, **options).metrics
    assert metrics["models"]["m"]["chat_date"] == SECOND and "chat_date" not in metrics["models"]["plain"]
    assert "today" not in caplog.text
    for call in (
        lambda: RewardScorer(own["plain"], chat_date=FIRST),
        lambda: evaluate({"plain": own["plain"]}, {"test": Dataset.from_list(ROWS)}, **options),
    ):
        with pytest.raises(InputError, match=r"does not ask for the date\. Leave it out"):
            call()


def test_a_file_that_is_scored_over_two_days_has_one_date(on, reward_model, reader, tmp_path):
    folder = foreign(reward_model, reader, tmp_path)
    rows = [{"prompt": p, "completions": c} for p, c in zip(*TEXTS)]
    source, out = tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    command = ["score", "--model", folder, "--input", str(source), "--output", str(out), "--window", "1"]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    on(FIRST)
    expected = RewardScorer(folder, device="cpu").score(*TEXTS)
    assert main(command) == 0
    journal = json.loads((tmp_path / "out.jsonl.run.json").read_text())
    assert journal["run"]["chat_date"] == FIRST
    first = out.read_text().splitlines(keepends=True)[0]  # as if the run had been killed after its first row
    out.unlink()
    (tmp_path / "out.jsonl.partial").write_text(first)
    summary = {"rows": 1, "completions": 2}
    journal = {"run": journal["run"], "bytes": len(first), "read": 1, "summary": summary}
    (tmp_path / "out.jsonl.run.json").write_text(json.dumps(journal))
    on(SECOND)
    assert main(command) == 0 and main(command) == 0  # continues, then finds it done
    written = [json.loads(line)["reward"] for line in out.read_text().splitlines()]
    assert written == [pytest.approx(pair, abs=1e-5) for pair in expected]
    assert main([*command, "--overwrite"]) == 0
    assert json.loads((tmp_path / "out.jsonl.run.json").read_text())["run"]["chat_date"] == SECOND


def test_the_date_of_a_run_can_be_given_and_only_where_it_is_read(trained, base_model, reader):
    trainer = trained("given", chat_date=FIRST)
    assert trainer.model.settings.chat_date == FIRST
    assert "Today: 05 Mar 2026" in trainer.processing_class.decode(trainer.train_data.sequence(0))
    with pytest.raises(InputError, match="`chat_date` is '2026-02-30', which is not a date"):
        trained("wrong", chat_date="2026-02-30")
    with pytest.raises(InputError, match=r"does not ask for the date\. Leave it out"):
        trained("plain", processing_class=AutoTokenizer.from_pretrained(base_model("qwen3")), chat_date=FIRST)
    with pytest.raises(InputError, match="with `data_format` 'text' no chat template is read"):
        trained("text", chat_date=FIRST, data_format="text")
    reader.chat_template = TEMPLATE.replace("'%d %b %Y'", "messages[0].format")
    with pytest.raises(InputError, match="asks for the time with `strftime_now` in line 1"):
        trained("other")


def test_a_reward_model_keeps_the_date_of_its_base_lm_stage(on, trained, reader, tmp_path):
    on(FIRST)
    config = BaseLmConfig(output_dir=str(tmp_path / "sft"), data_format="chat", use_cpu=True)
    dated_tokenizer(reader, config, None)[0].save_pretrained(tmp_path / "sft")
    on(SECOND)
    trainer = trained("general", processing_class=AutoTokenizer.from_pretrained(tmp_path / "sft"))
    assert trainer.model.settings.chat_date == FIRST
    assert dated_tokenizer(reader, config, FIRST)[1] == FIRST  # resumed


def test_a_recipe_may_write_the_date_as_yaml_has_dates():
    values = {"chat_date": datetime.date(2026, 3, 5)}
    check_values(values, {"chat_date"}, "recipe.yaml", GROUPS)
    assert values == {"chat_date": FIRST}


def test_token_ids_are_kept_for_a_fixed_date_alone(reader, monkeypatch):
    monkeypatch.setattr("rm_toolkit.batches.token_cache.MIN_ROWS", 1)
    rows = Dataset.from_list(ROWS)
    assert TokenCache.of(rows, reader, (512, "chat")) is None
    assert TokenCache.of(rows, reader, (512, "text")) is not None  # text rows do not use the template
    dated = [chat_clock.with_date(reader, date) for date in (FIRST, SECOND, FIRST)]
    paths = [TokenCache.of(rows, tokenizer, (512, "chat")).path for tokenizer in dated]
    assert paths[0] == paths[2] != paths[1]
