"""`rm-toolkit merge`: folders interpolated between two tiny reward models."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from conftest import pair_rows
from safetensors.torch import load_file, save_file

from rm_toolkit.cli import main
from rm_toolkit.errors import InputError
from rm_toolkit.merging.frontier import compute_frontier, evaluate_between
from rm_toolkit.merging.merge import check_weights, merge_models
from rm_toolkit.models.reward_model import RewardModel
from rm_toolkit.models.saving import save_reward_model
from rm_toolkit.models.settings import RewardModelSettings, load_settings
from rm_toolkit.models.tokenizer import load_tokenizer, prepare_tokenizer
from rm_toolkit.scoring.example import read_example
from rm_toolkit.scoring.scorer import RewardScorer


@pytest.fixture(scope="module")
def save_rm(base_model, tmp_path_factory):
    """`save_rm(name, shift, architecture="llama", tied=False, **settings)`: a saved reward model, weights shifted."""

    def make(name, shift=0.0, *, architecture="llama", tied=False, **settings):
        values = {"max_length": 48, "lineage": [{"stage": name, "domain": None, "base": "some/base"}], **settings}
        model = RewardModel.from_pretrained(
            base_model(architecture, tied=tied), RewardModelSettings(stage=name, **values), with_lm_head=True
        )
        tokenizer = load_tokenizer(base_model(architecture, tied=tied))
        prepare_tokenizer(tokenizer, model.config, max_length=48, pooling_type=model.settings.pooling_type)
        model.resize_token_embeddings(len(tokenizer))
        generator = torch.Generator().manual_seed(round(shift * 1000))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(shift * torch.randn(parameter.shape, generator=generator))
        folder = tmp_path_factory.mktemp(name)
        save_reward_model(model, folder, tokenizer)
        return folder

    return make


@pytest.fixture(scope="module")
def general(save_rm):
    return save_rm("grft")


@pytest.fixture(scope="module")
def customized(save_rm):
    return save_rm("crft", 0.1, domain="law")


@pytest.fixture
def no_fresh_process(monkeypatch):
    """Skips the reload check's fresh process, which takes seconds; one test runs it. All open the folder here."""
    monkeypatch.setattr("rm_toolkit.hub.models.check_reload", lambda *args, **kwargs: None)


def weights_of(folder, part="model.safetensors"):
    return load_file(Path(folder) / part)


def test_a_folder_between_two(general, customized, tmp_path, capsys):
    output = tmp_path / "merged"
    command = ["merge", "--general", str(general), "--customized", str(customized), "--output", str(output)]
    assert main([*command, "--weight", "0.25"]) == 0
    assert "texts give the same rewards in a fresh process" in capsys.readouterr().out
    for part in ("model.safetensors", "lm_head/model.safetensors"):
        low, high, found = (weights_of(folder, part) for folder in (general, customized, output))
        assert found.keys() == low.keys()
        for name in found:
            assert torch.allclose(found[name], 0.75 * low[name] + 0.25 * high[name], atol=1e-6), name
            assert not torch.equal(found[name], low[name]) and not torch.equal(found[name], high[name])
    settings = load_settings(str(output))
    assert (settings.stage, settings.domain, settings.lm_head, settings.max_length) == ("merge", "law", "saved", 48)
    assert [entry["stage"] for entry in settings.lineage] == ["crft", "merge"]
    last = settings.lineage[-1]
    assert last["weights"] == [0.25] and last["general_lineage"][0]["stage"] == "grft"
    assert last["base"] == str(general) and last["customized"] == [str(customized)]
    names = {path.name for path in output.iterdir()}
    assert names >= {"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "rm_toolkit.json"}
    prompts, answers = ["## Human:\nA river?\n\n## Assistant:\n"] * 2, ["A stone.", "No window."]
    scorers = [RewardScorer(folder) for folder in (general, customized, output)]
    assert len({round(scorer.score(prompts, answers)[0], 4) for scorer in scorers}) == 3
    example = read_example(output)  # used to check a server
    rewards = [scorer.score([example.prompt], [example.completion])[0] for scorer in scorers]
    assert example.reward == pytest.approx(rewards[2], abs=1e-6) and example.reward not in rewards[:2]


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_weights_0_and_1_give_the_files_of_the_sources(general, customized, tmp_path, weight, no_fresh_process):
    merge_models(general, [customized], [weight], tmp_path / "merged", show_progress=False)
    source = customized if weight else general
    for part in ("model.safetensors", "lm_head/model.safetensors"):
        assert (tmp_path / "merged" / part).read_bytes() == (source / part).read_bytes()


def test_several_customized_models_and_their_shards(general, customized, save_rm, tmp_path, no_fresh_process):
    from transformers import AutoModelForSequenceClassification

    art = save_rm("art", 0.2)
    sharded = tmp_path / "sharded"
    shutil.copytree(customized, sharded)
    model = AutoModelForSequenceClassification.from_pretrained(customized, dtype=torch.bfloat16)
    (sharded / "model.safetensors").unlink()
    model.save_pretrained(sharded, max_shard_size="8KB")
    shards = sorted(path.name for path in sharded.glob("model-*.safetensors"))
    assert len(shards) > 1
    merge_models(general, [sharded, art], [0.3, 0.2], tmp_path / "merged", show_progress=False)
    assert sorted(path.name for path in (tmp_path / "merged").glob("*.safetensors")) == shards
    low, own, other = weights_of(general), weights_of(customized), weights_of(art)
    found = {name: tensor for shard in shards for name, tensor in weights_of(tmp_path / "merged", shard).items()}
    assert found.keys() == low.keys() and {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    for name, tensor in found.items():
        expected = 0.5 * low[name] + 0.3 * own[name].bfloat16().float() + 0.2 * other[name]
        assert torch.allclose(tensor.float(), expected, rtol=2**-8, atol=1e-6), name


def test_heads_with_other_numbers_of_rows_and_a_missing_one(general, customized, tmp_path, capsys, no_fresh_process):
    shorter = tmp_path / "shorter"
    shutil.copytree(general, shorter)
    head = weights_of(general, "lm_head/model.safetensors")["weight"]
    save_file({"weight": head[:-1].clone()}, shorter / "lm_head" / "model.safetensors")
    merge_models(shorter, [customized], [0.5], tmp_path / "one", show_progress=False)
    other = weights_of(customized, "lm_head/model.safetensors")["weight"]
    found = weights_of(tmp_path / "one", "lm_head/model.safetensors")["weight"]
    assert torch.allclose(found[-1], (head[:-1].mean(0) + other[-1]) / 2, atol=1e-6)
    shutil.rmtree(shorter / "lm_head")
    merge_models(shorter, [customized], [0.5], tmp_path / "two", show_progress=False)
    assert not (tmp_path / "two" / "lm_head").exists() and load_settings(str(tmp_path / "two")).lm_head == "none"
    assert "LM head is left out" in capsys.readouterr().out


def test_tied_models_of_another_architecture_and_pooling(save_rm, tmp_path, no_fresh_process):
    options = {"architecture": "qwen3", "tied": True, "pooling_type": "average"}
    low, high = save_rm("low", **options), save_rm("high", 0.1, **options)
    merge_models(low, [high], [0.5], tmp_path / "merged", show_progress=False)
    settings = load_settings(str(tmp_path / "merged"))
    assert (settings.lm_head, settings.pooling_type, settings.stock) == ("tied", "average", False)


def change_json(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def other_pooling(folder):
    change_json(folder / "rm_toolkit.json", pooling_type="eos")


def other_heads(folder):
    change_json(folder / "config.json", num_attention_heads=4)


def other_shape(folder):
    tensors = weights_of(folder)
    tensors["model.norm.weight"] = torch.zeros(3)
    save_file(tensors, folder / "model.safetensors")


def other_tokens(folder):
    tokenizer = load_tokenizer(str(folder))
    tokenizer.add_tokens(["lawful"])
    tokenizer.save_pretrained(folder)


def other_template(folder):
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")


def other_cutting(folder):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["merges"].reverse()
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def no_head(folder):
    tensors = weights_of(folder)
    save_file({name: value for name, value in tensors.items() if "score" not in name}, folder / "model.safetensors")


def no_config(folder):
    (folder / "config.json").unlink()


def no_folder(folder):
    shutil.rmtree(folder)
    folder.write_text("a file")


def no_end(folder):
    (folder / "generation_config.json").symlink_to("/dev/zero")


def no_reader(folder):
    os.mkfifo(folder / "merges.txt")


def enormous(folder):
    with (folder / "generation_config.json").open("wb") as file:
        file.truncate(64 << 30)


def torn(folder):
    (folder / "model.safetensors").write_bytes(b"torn")


def integers(folder):
    tensors = weights_of(folder)
    tensors["score.weight"] = tensors["score.weight"].to(torch.int32)
    save_file(tensors, folder / "model.safetensors")


def torn_lm_head(folder):
    (folder / "lm_head" / "model.safetensors").write_bytes(b"torn")


def lm_head_without_end(folder):
    (folder / "lm_head" / "model.safetensors").unlink()
    os.mkfifo(folder / "lm_head" / "model.safetensors")


def integer_lm_head(folder):
    head = weights_of(folder, "lm_head/model.safetensors")["weight"]
    save_file({"weight": head.to(torch.int32)}, folder / "lm_head" / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (other_pooling, "their `pooling_type` differs: 'eos' and 'last'"),
        (other_heads, r"`num_attention_heads` in their config\.json differs \(4 and 2\)"),
        (other_shape, r"the shapes of 'model.norm.weight' are \[3\] and \[16\]"),
        (other_tokens, "their tokenizers have different tokens"),
        (other_cutting, "their tokenizers truncate texts differently"),
        (other_template, r"their chat templates \(`chat_template.jinja`\) differ"),
        (no_head, "has no reward head"),
        (no_config, r"config\.json"),
        (no_folder, "is not a folder"),
        (torn, r"model.safetensors is damaged"),
        (integers, "the weight 'score.weight' of its safetensors has the type I32"),
        (torn_lm_head, r"lm_head/model.safetensors is damaged"),
        (lm_head_without_end, r"lm_head/model.safetensors is a pipe, a socket or a device"),
        (integer_lm_head, r"lm_head/model.safetensors has a `weight` of shape \[\d+, 16\] and type I32"),
    ],
)
def test_models_that_do_not_fit_are_refused_and_nothing_is_written(general, customized, tmp_path, change, message):
    other = tmp_path / "other"
    shutil.copytree(general, other)
    change(other)
    with pytest.raises(InputError, match=message):
        merge_models(other, [customized], [0.5], tmp_path / "merged", show_progress=False)
    assert {path.name for path in tmp_path.iterdir()} == {"other"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_end, "generation_config.json is a pipe, a socket or a device"),
        (no_reader, "merges.txt is a pipe, a socket or a device"),
        (enormous, "generation_config.json has 68,719,476,736 bytes"),
    ],
)
def test_what_a_model_carries_is_copied_only_if_it_has_an_end(general, customized, tmp_path, change, message):
    other = tmp_path / "other"
    shutil.copytree(customized, other)
    change(other)
    with pytest.raises(InputError, match=message):
        merge_models(general, [other], [0.5], tmp_path / "merged", show_progress=False)
    assert {path.name for path in tmp_path.iterdir()} == {"other"}


@pytest.mark.parametrize("weights", [[0.5], [0.5, 0.6], [-0.1, 0.5], [1.1, 0.0]])
def test_weights_that_are_no_interpolation_are_refused(weights):
    with pytest.raises(InputError, match="--weight"):
        check_weights(weights, 2)


def test_an_output_in_use_is_left_alone(general, customized, tmp_path, no_fresh_process):
    merge_models(general, [customized], [0.5], tmp_path / "merged", show_progress=False)
    with pytest.raises(InputError, match="in use"):
        merge_models(general, [customized], [0.4], tmp_path / "merged", show_progress=False)
    with pytest.raises(InputError, match="merge did not write this folder"):
        merge_models(customized, [general], [0.5], general, overwrite=True, show_progress=False)
    merge_models(general, [customized], [0.0], tmp_path / "merged", overwrite=True, show_progress=False)
    assert load_settings(str(tmp_path / "merged")).lineage[-1]["weights"] == [0.0]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "--weight is not given"),
        (["--weight", "0.5", "--weights", "0.1"], "--weights is used with --frontier only"),
        (["--frontier"], "--frontier needs --general-datasets"),
        (["--frontier", "--weight", "0.5"], "--weights instead of --weight"),
        (
            ["--frontier", "--general-datasets", "a=b", "--customized-datasets", "a=b"],
            "given as general and as customized",
        ),
        (["--frontier", "--general-datasets", "a", "--customized-datasets", "b=c"], "is not NAME=SPEC"),
        (
            ["--frontier", "--general-datasets", "a=b", "--customized-datasets", "b=c", "--weights", "2"],
            "--weights: it is '2'; it must be a number from 0 to 1",
        ),
        (
            ["--frontier", "--general-datasets", "a=b", "--customized-datasets", "b=c", "--allowed-loss", "2"],
            "--allowed-loss: it is '2'; it must be a number from 0 and below 1",
        ),
    ],
)
def test_a_mistake_is_named(general, customized, tmp_path, capsys, more, message):
    command = ["merge", "--general", str(general), "--customized", str(customized), "--output", str(tmp_path / "out")]
    assert main([*command, *more]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("at", ["general", "customized"])
def test_a_frontier_of_weights_that_are_not_finite_names_the_model(at, general, customized, tmp_path):
    folders = {"general": general, "customized": customized}
    folders[at] = shutil.copytree(folders[at], tmp_path / at)
    tensors = weights_of(folders[at])
    tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], torch.nan)
    save_file(tensors, folders[at] / "model.safetensors")
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in pair_rows(4, 0)))
    spec = {"path": str(rows), "source": "jsonl"}
    with pytest.raises(InputError, match=f"are not finite .*: the weights of '{folders[at]}'"):
        compute_frontier(*folders.values(), {"a": spec}, {"b": spec}, [], show_progress=False)


def test_a_frontier_in_bf16_computes_as_a_run_with_bf16_evaluates(general, customized, tmp_path, make_trainer):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in pair_rows(12, 0)))
    sets = {"a": {"path": str(rows), "source": "jsonl"}}, {"b": {"path": str(rows), "source": "jsonl"}}

    def rewards(**how):
        points = evaluate_between(general, customized, *sets, [1.0], show_progress=False, **how)
        return points[0].pairs["a"].better

    options = {"bf16": True, "max_length": 48, "batch_layout": "shared", "per_device_eval_batch_size": 64}
    trainer = make_trainer(pair_rows(12, 0), str(customized), eval_rows=pair_rows(12, 0), **options)
    data = trainer.prepare_data(trainer.eval_dataset, "eval")
    expected = trainer.compute_rewards(data)[data.better]
    assert rewards(bf16=True) == pytest.approx(expected, abs=1e-6)
    assert abs(rewards() - expected).max() > 1e-4


def test_the_frontier_agrees_with_models_on_disk(general, customized, tmp_path, capsys, no_fresh_process):
    """The models interpolated in memory get the metrics that the trainer computes for merged folders."""
    rows = {name: pair_rows(30, seed) for seed, name in enumerate(("helpful", "harmless", "law"))}
    for name, own in rows.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in own))
    spec = {name: f"{name}={{path: {tmp_path / name}.jsonl, source: jsonl}}" for name in rows}
    output = tmp_path / "best"
    command = [
        "merge",
        "--general",
        str(general),
        "--customized",
        str(customized),
        "--output",
        str(output),
        "--frontier",
    ]
    command += ["--general-datasets", spec["helpful"], spec["harmless"], "--customized-datasets", spec["law"]]
    assert main([*command, "--weights", "0.5", "--allowed-loss", "0.9"]) == 0
    found = json.loads((output / "frontier" / "frontier.json").read_text())
    assert [point["weight"] for point in found["points"]] == [0.0, 0.5, 1.0]
    merge_models(general, [customized], [0.5], tmp_path / "half", show_progress=False)
    for folder, point in zip((general, tmp_path / "half", customized), found["points"]):
        scorer, accuracies = RewardScorer(folder), {}
        for name, own in rows.items():
            chosen, rejected = (
                scorer.score([row["prompt"] for row in own], [row[key] for row in own])
                for key in ("chosen", "rejected")
            )
            accuracies[name] = sum(better > worse for better, worse in zip(chosen, rejected)) / len(own)
        assert {name: values["accuracy"] for name, values in point["sets"].items()} == pytest.approx(accuracies)
        assert point["general"] == pytest.approx((accuracies["helpful"] + accuracies["harmless"]) / 2)
    best = max(found["points"], key=lambda point: (point["customized"], -point["weight"]))
    assert found["chosen_weight"] == best["weight"] == load_settings(str(output)).lineage[-1]["weights"][0]
    assert (output / "frontier" / "frontier.png").read_bytes().startswith(b"\x89PNG")
    assert '"columns":["weight","general","customized",' in (output / "frontier" / "report.html").read_text()
    text = (output / "frontier" / "frontier.md").read_text()
    assert f"| {best['weight']:g} * |" in text and "helpful 30, harmless 30, law 30" in text
