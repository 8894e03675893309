"""`rm-toolkit evaluate`: the metrics of any reward model, and the folder that shows them."""

import json
import struct

import numpy as np
import pyarrow.parquet
import pytest
import torch
from conftest import MAX_LENGTH
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rm_toolkit.cli import main
from rm_toolkit.cli.evaluate import half_width
from rm_toolkit.errors import InputError
from rm_toolkit.evaluation import evaluate
from rm_toolkit.evaluation.evaluator import name_models
from rm_toolkit.models.saving import save_reward_model
from rm_toolkit.output.console import console


TAGGED = {"domain": lambda k: ("law", "art")[k % 2], "prompt_id": lambda k: str(k // 2), "source": lambda k: "jsonl"}


def stock_model(base, folder, architecture_name=None):
    """A reward model made by transformers alone: a random head and no settings of ours."""
    torch.manual_seed(3)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    tokenizer = AutoTokenizer.from_pretrained(base)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def ours(make_trainer, rows, tmp_path):
    """`ours(name, seed=0, **config)`: folder of an untrained reward model that the toolkit saved."""

    def make(name, seed=0, **config):
        trainer = make_trainer(rows.pairs(4), seed=seed, **config)
        trainer.model.settings.domain = "law"
        save_reward_model(trainer.model, tmp_path / name, trainer.processing_class)
        return str(tmp_path / name)

    return make


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_stock_model_gets_the_numbers_of_a_computation_without_the_toolkit(
    kind, base_model, base_encoder, rows, tmp_path
):
    folder = stock_model(base_model() if kind == "llama" else base_encoder(), tmp_path / "stock")
    data = rows.pairs(30, **TAGGED)
    found = evaluate({"stock": folder}, {"mine": Dataset.from_list(data)}, resamples=50, show_progress=False)
    values = found.metrics["results"]["stock"]["mine"]

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        chosen, rejected = (
            np.array([float(model(**tokenizer(r["prompt"] + r[side], return_tensors="pt")).logits) for r in data])
            for side in ("chosen", "rejected")
        )
    margins = chosen - rejected
    p = 1 / (1 + np.exp(-margins))
    assert np.ptp(margins) > 0.1
    assert values["accuracy"]["value"] == pytest.approx((margins > 0).mean())
    assert values["margin"] == pytest.approx(margins.mean(), abs=1e-5)
    assert values["brier"] == pytest.approx(((1 - p) ** 2).mean(), abs=1e-5)
    assert values["loss"] == pytest.approx(-np.log(p).mean(), abs=1e-5)
    rewards = np.concatenate([chosen, rejected])
    lengths = np.array([len(r[side]) for side in ("chosen", "rejected") for r in data])
    assert values["length"]["pearson"] == pytest.approx(np.corrcoef(rewards, lengths)[0, 1], abs=1e-4)
    law = np.arange(30) % 2 == 0
    assert values["by_tag"]["domain"]["law"]["accuracy"]["value"] == pytest.approx((margins[law] > 0).mean())
    assert values["num_prompts"] == 15


def test_training_and_evaluation_agree_on_ranked_rows(make_trainer, rows, tmp_path):
    ranked = rows.ranked(8)
    trainer = make_trainer(rows.pairs(4), eval_rows={"mine": ranked})
    logged = trainer.evaluate()
    save_reward_model(trainer.model, tmp_path / "rm", trainer.processing_class)
    values = evaluate([str(tmp_path / "rm")], {"mine": Dataset.from_list(ranked)}, resamples=50, show_progress=False)
    values = values.metrics["results"]["rm"]["mine"]
    assert values["accuracy"]["value"] == logged["eval_mine_accuracy"]
    assert values["margin"] == pytest.approx(logged["eval_mine_margin"], abs=1e-5)
    assert values["loss"] == pytest.approx(logged["eval_mine_loss"], abs=1e-5)
    for key in ("num_pairs", "num_ties", "num_label_ties"):
        assert values[key] == logged[f"eval_mine_{key}"]
    assert values["num_label_ties"] > 0


@pytest.mark.parametrize("pooling_type", ["last", "average"])
def test_figures_do_not_depend_on_the_batch(pooling_type, ours, rows):
    folder = ours("rm", pooling_type=pooling_type)
    data = {"mine": Dataset.from_list(rows.pairs(20, **TAGGED))}
    found = [
        evaluate({"rm": folder}, data, tokens_per_batch=tokens, resamples=50, show_progress=False)
        for tokens in (1, 200, 16384)
    ]
    for other in found[1:]:
        assert np.abs(other.rewards["rm"]["mine"] - found[0].rewards["rm"]["mine"]).max() < 1e-5
        values = [result.metrics["results"]["rm"]["mine"]["accuracy"] for result in (found[0], other)]
        assert values[0] == values[1]


def test_models_of_both_formats_and_an_adapter_are_compared_on_the_same_pairs(
    make_trainer, rows, base_model, tmp_path
):
    from peft import LoraConfig

    chat = make_trainer(
        [{"prompt": [{"role": "user", "content": "a"}], **_answers("b", "c")}] * 4,
        model=base_model("qwen3"),
        data_format="chat",
    )
    save_reward_model(chat.model, tmp_path / "chat", chat.processing_class)
    lora = make_trainer(rows.pairs(4), peft_config=LoraConfig(r=2))
    save_reward_model(lora.model, tmp_path / "lora" / "adapter", lora.processing_class)
    lines = [{"question": f"Which {k}?", "good": "silver river", "bad": f"stone {k}"} for k in range(6)]
    (tmp_path / "mine.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    columns = {"prompt": "question", "chosen": "good", "rejected": "bad"}
    spec = {"path": str(tmp_path / "mine.jsonl"), "source": "jsonl", "columns": columns}
    models = [str(tmp_path / "chat"), f"lora={tmp_path / 'lora' / 'adapter'}"]
    found = evaluate(models, {"mine": spec}, resamples=50, cache_dir=str(tmp_path / "cache"), show_progress=False)
    assert [model["data_format"] for model in found.metrics["models"].values()] == ["chat", "text"]
    (difference,) = found.metrics["differences"]
    accuracy = [found.metrics["results"][name]["mine"]["accuracy"]["value"] for name in ("chat", "lora")]
    assert (difference["first"], difference["second"]) == ("chat", "lora")
    assert difference["value"] == pytest.approx(accuracy[1] - accuracy[0])
    with pytest.raises(InputError, match="test set 'mine' is in chat format, but a model reads text"):
        evaluate(
            models[1:], {"mine": {**spec, "format": "chat"}}, cache_dir=str(tmp_path / "cache"), show_progress=False
        )


def _answers(chosen, rejected):
    return {
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
    }


def test_the_command_writes_numbers_tables_and_pictures(ours, write_sets, tmp_path, capsys, read_json, monkeypatch):
    monkeypatch.setattr(console, "width", 160)
    first, second = ours("general"), ours("law", seed=1)
    log = {"pairs_per_step": 4, "log_history": [{"step": k, "eval_law_accuracy": 0.5 + k / 10} for k in range(3)]}
    (tmp_path / "law" / "training_log.json").write_text(json.dumps(log))
    command = ["evaluate", "--model", first, second, "--datasets", *write_sets, "--resamples", "50"]
    command += ["--cache-dir", str(tmp_path / "cache"), "--output", str(tmp_path / "report"), "--doubts", "2"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "doubts.jsonl" in said and "minus general" in said
    metrics = read_json(tmp_path / "report" / "metrics.json")
    assert metrics["command"] == ["rm-toolkit", *command]
    assert set(metrics["accuracy_matrix"]) == {"general", "law"}
    for row in metrics["differences"]:  # printed with their intervals, as in the report
        shown = [half_width(metrics["results"]["law"][row["dataset"]]["accuracy"]), half_width(row, "+")]
        assert any(all(cell in line for cell in shown) for line in said.splitlines())
    assert metrics["accuracy_matrix"]["law"]["art"] == metrics["results"]["law"]["art"]["accuracy"]["value"]
    assert metrics["models"]["law"]["learning_curves"]["customized"] == ["law"]
    assert (metrics["datasets"]["law"]["domains"], metrics["datasets"]["law"]["num_pairs"]) == (["law"], 12)
    assert metrics["results"]["law"]["art"]["by_tag"]["rejected_domain"].keys() == {"law", "sport"}
    assert metrics["results"]["law"]["art"]["num_truncated"] == 1  # one text is longer than `max_length`
    report = (tmp_path / "report" / "report.md").read_text()
    pictures = sorted(path.name for path in (tmp_path / "report" / "figures").iterdir())
    assert {f"{kind}-law.png" for kind in ("rewards", "margins", "reliability", "length", "learning-curves")} < set(
        pictures
    )
    assert {"accuracy-matrix.png", "before-after.png"} < set(pictures)
    assert all(f"](figures/{name})" in report for name in pictures)
    for name in pictures:
        header = (tmp_path / "report" / "figures" / name).read_bytes()[:24]
        assert header[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">I", header[16:20])[0] == 1200, name
    assert "art, rejected domain sport" in report and "beyond chance" in report
    lines = pyarrow.parquet.read_table(tmp_path / "report" / "pairs.parquet").to_pylist()
    assert len(lines) == 2 * (12 + 12) and {line["model"] for line in lines} == {"general", "law"}
    for name, values in ((line["set"], line) for line in lines if line["model"] == "law"):
        assert values["domain"] == name and values["truncated_chosen"] == values["chosen"].startswith("violin violin")
    doubts = [json.loads(line) for line in (tmp_path / "report" / "doubts.jsonl").read_text().splitlines()]
    for own in {(line["model"], line["set"]) for line in lines}:
        worst = sorted(line["margin"] for line in lines if (line["model"], line["set"]) == own and line["margin"] < 0)
        found = [line["margin"] for line in doubts if (line["model"], line["dataset"]) == own]
        assert found == pytest.approx(worst[:2])
    margins = [line["margin"] for line in lines if (line["model"], line["set"]) == ("law", "art")]
    assert np.mean(margins) == pytest.approx(metrics["results"]["law"]["art"]["margin"])
    page = (tmp_path / "report" / "report.html").read_text()
    assert "http:" not in page.split("</head>")[0] and f"violin {'violin ' * 20}" in page
    assert not (tmp_path / "report" / "report_files").exists()
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []

    assert main(command) == 2
    assert "report: the output folder is in use. Use another one, or pass --overwrite." in capsys.readouterr().err
    (tmp_path / "report" / "metrics.json").unlink()
    assert main([*command, "--overwrite"]) == 2
    assert "evaluate did not write this folder" in capsys.readouterr().err


@pytest.fixture
def write_sets(tmp_path):
    """NAME=SPEC arguments for a DSP file, once for each of two domains."""
    items = [
        {"query": f"Which {k}?", "responses": {"law": f"court {k}", "art": f"paint {k} " * 3, "sport": f"ball {k}"}}
        for k in range(6)
    ]
    items[0]["responses"]["art"] = "violin " * MAX_LENGTH
    path = tmp_path / "dsp.json"
    path.write_text(json.dumps(items))
    return [f"{name}={{path: {path}, source: dsp, domain: {name}}}" for name in ("law", "art")]


def test_names_of_models():
    assert name_models(["a/grft", "b/crft/"]) == {"grft": "a/grft", "crft": "b/crft/"}
    assert name_models(["a/rm", "b/rm"]) == {"a/rm": "a/rm", "b/rm": "b/rm"}
    assert name_models(["base=a/rm", "b/rm"]) == {"base": "a/rm", "rm": "b/rm"}
    with pytest.raises(InputError, match="a model is given twice"):
        name_models(["a/rm", "a/rm"])
    with pytest.raises(InputError, match="two models have the same name"):
        name_models(["x=a/rm", "x=b/rm"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--datasets", "data/x"], "--datasets: 'data/x' is not NAME=SPEC"),
        (["--datasets", "a=x", "a=y"], "the name 'a' is given twice"),
        (["--datasets", "a={path:x}"], "'path:x' has no value; write 'KEY: VALUE'"),
        (["--datasets", "a={path"], "is not a mapping"),
        (["--datasets", "a=x", "--resamples", "0"], "argument --resamples: it is '0'"),
    ],
)
def test_mistakes_on_the_command_line(flags, message, tmp_path, capsys):
    assert main(["evaluate", "--model", "m", "--output", str(tmp_path / "out"), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_model_without_a_reward_head_is_refused(base_model, rows, tmp_path):
    with pytest.raises(InputError, match="has no reward head"):
        evaluate([base_model()], {"mine": Dataset.from_list(rows.pairs(3))}, show_progress=False)


def test_an_interval_is_printed_by_half_its_width():
    assert half_width({"value": 0.8124, "low": 0.79, "high": 0.834}) == "0.812 ± 0.022"
    assert half_width({"value": 0.0124, "low": -0.01, "high": 0.03}, "+") == "+0.012 ± 0.020"
    assert half_width({"value": 1.0, "low": None, "high": None}) == "1.000"
