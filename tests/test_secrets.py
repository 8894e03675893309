"""Tokens do not get out; pickles and foreign code do not get in."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import json
import operator
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rm_toolkit.cli import COMMANDS, main
from rm_toolkit.data.specs import DatasetSpec
from rm_toolkit.errors import InputError
from rm_toolkit.models.reward_model import RewardModel
from rm_toolkit.models.settings import RewardModelSettings
from rm_toolkit.output.ending import ending_of
from rm_toolkit.output.redaction import redact
from rm_toolkit.training.recipe import parse_recipe
from rm_toolkit.training.recipe_file import check_values, load_yaml


# The secrets are planted in every setting, those of collecting included, whose modules need the client.
pytest.importorskip("openai", reason="the settings of collecting need the extra `collect`")

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
PASSWORD, PLANTED, STAGES, TOKEN, forms, leaks, planted_settings = operator.attrgetter(
    "PASSWORD", "PLANTED", "STAGES", "TOKEN", "forms", "leaks", "planted_settings"
)(importlib.import_module("planted_secrets"))
sys.path.pop(0)


# ---- tokens ----


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"401 for {TOKEN}, sorry", "401 for hf_<hidden>, sorry"),
        (f"https://me:{PASSWORD}@host.org/data.json", "https://<hidden>@host.org/data.json"),
        (f"https://host/x?rev=1&token={PASSWORD}&v=2", "https://host/x?rev=1&token=<hidden>&v=2"),
        (f"Authorization: Bearer {PASSWORD}", "Authorization: Bearer <hidden>"),
        ({"hub_token": PASSWORD, "eos": ["</s>", TOKEN], "n": 3}, {"hub_token": "<hidden>", "eos": ["</s>", "hf_<hidden>"], "n": 3}),
        ("hf_hub is a package, a@b.org an address, 'x?y=1' a query", "hf_hub is a package, a@b.org an address, 'x?y=1' a query"),
        (f"https://me:p/{PASSWORD}@w@host.org/x, https:me:{PASSWORD}@h/y", "https://<hidden>@host.org/x, https:<hidden>@h/y"),
        ("https://host:8000/x@main and https://hf.co/a/b@v2", "https://host:8000/x@main and https://hf.co/a/b@v2"),
        (f'{{"api_key": "{PASSWORD}", "top_k": 4}} X-Api-Key: {PASSWORD}', '{"api_key": "<hidden>", "top_k": 4} X-Api-Key: <hidden>'),
        (f"{{'Authorization': 'Bearer {PASSWORD}'}}", "{'Authorization': 'Bearer <hidden>'}"),
        ({"x": [{"client_secret": PASSWORD, "eos_token": "</s>"}]}, {"x": [{"client_secret": "<hidden>", "eos_token": "</s>"}]}),
        (f"https://h/x?X-Amz-Signature={PASSWORD}&v=1", "https://h/x?X-Amz-Signature=<hidden>&v=1"),
        ("max_tokens: 1024, eos_token: '</s>', password: null", "max_tokens: 1024, eos_token: '</s>', password: null"),
    ],
)  # fmt: skip
def test_secrets_are_hidden_and_the_rest_stays(text, expected):
    assert redact(text) == expected


def test_a_secret_of_the_environment_is_hidden_in_every_form(monkeypatch):
    secret = "Cänary/+key 'with\\all=4711"
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "MY_PASSWORD"):
        monkeypatch.setenv(name, secret)
        for form in forms(secret):
            assert redact(f"before {form} after") == "before <hidden> after"
        monkeypatch.delenv(name)
    assert redact(f"before {secret} after") != "before <hidden> after"


def string_options(command):
    """The options of a command that accept any text, from its parser, and valid values for the others."""
    parser = argparse.ArgumentParser()
    importlib.import_module(COMMANDS[command][0]).add_arguments(parser)
    return [
        action
        for action in parser._actions
        if action.nargs != 0
        and action.choices is None
        and action.dest != "help"
        and action.default is not argparse.SUPPRESS
    ]


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_prints_or_writes_a_secret_of_its_options(command, tmp_path, monkeypatch, capfd):
    """Each option in turn is a URL with a password, a token and a key, whatever the command does with it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OPENAI_API_KEY", "environment/" + PASSWORD)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # tracebacks
    options = string_options(command)
    for option in options:
        argv = [command]
        for action in options:
            if action is option or action.required or not action.option_strings:
                value = PLANTED if action is option else str(tmp_path / "nothing")
                argv += [*action.option_strings[:1], value]
        with contextlib.suppress(SystemExit):
            main(argv)
        printed = "".join(capfd.readouterr())
        found = [printed, *(path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())]
        assert not any(leaks(text) for text in found), (option.dest, next(t for t in found if leaks(t))[-400:])


@pytest.mark.parametrize("stage", ["grft", pytest.param("sft", marks=pytest.mark.slow)])
def test_no_setting_of_a_recipe_is_printed_with_its_secret(stage, tmp_path, monkeypatch, capfd):
    """Whatever the recipe does with it, up to loading data; errors are printed in the same way as by commands."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tracebacks"))
    (tmp_path / "tracebacks").mkdir()
    groups, tried = STAGES[stage], 0
    known = {field.name for group in groups for field in dataclasses.fields(group)}
    for name, value in planted_settings(stage):
        path = tmp_path / "recipe.yaml"
        path.write_text(json.dumps({name: value}))  # JSON is YAML
        try:
            read = load_yaml(path)
            check_values(read, known, path, groups)
            for spec in read[name].items() if name.endswith("_datasets") else ():
                DatasetSpec.parse(spec[1], spec[0])
            continue  # accepted: benchmarks/faults.py tests whole runs
        except Exception as error:
            said = ending_of(error).message
        tried += 1
        assert said.startswith("error: ") and not leaks(said + "".join(capfd.readouterr())), (name, value, said)
    assert tried > 200 and not any(leaks(file.read_text()) for file in (tmp_path / "tracebacks").iterdir())


def test_a_token_in_a_recipe_or_a_flag_is_refused(tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"hub_token: {TOKEN}\nbf16: false\n")
    for argv in (["--config", str(recipe)], ["--hub_token", TOKEN, "--use_cpu", "true"]):
        with pytest.raises(InputError, match="`hub_token` is in a recipe or on a command line") as error:
            parse_recipe(ROOT / "recipes" / "tiny" / "grft.yaml", argv)
        assert TOKEN not in str(error.value)


def test_an_error_that_names_an_address_hides_its_password(capsys, tmp_path):
    address = f"https://me:{PASSWORD}@host.org/{TOKEN}.jsonl"
    assert main(["build-data", "jsonl", "--input", address, "--output", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert "host.org" in printed and PASSWORD not in printed and TOKEN not in printed


def test_saved_settings_hide_the_password_of_a_data_set_s_address(tmp_path):
    lineage = [
        {"stage": "grft", "datasets": {"mine": {"spec": {"path": f"https://me:{PASSWORD}@host/x?token={TOKEN}"}}}}
    ]
    RewardModelSettings(lineage=lineage).save(tmp_path)
    text = (tmp_path / "rm_toolkit.json").read_text()
    assert "<hidden>@host" in text and PASSWORD not in text and TOKEN not in text


def test_nothing_that_a_run_writes_or_prints_holds_a_token(make_trainer, rows, tmp_path, monkeypatch, capfd):
    """Every file is searched: weights, checkpoints with their pickles, TensorBoard logs, cards."""
    from rm_toolkit.hub.models import preview_model

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", TOKEN)
    settings = RewardModelSettings(
        max_length=48, lineage=[{"stage": "grft", "base": f"https://x:{PASSWORD}@host/base", "domain": None}]
    )
    logs = ["tensorboard"] if _has_tensorboard() else "none"
    trainer = make_trainer(
        rows.pairs(4), hub_token=TOKEN, report_to=logs, save_strategy="epoch", num_train_epochs=1, push_to_hub=False
    )
    trainer.model.settings = settings
    trainer.train()
    trainer.save_model()
    folder = Path(trainer.args.output_dir)
    preview_model(str(folder), "me/rm", str(tmp_path / "preview"))
    files = [path for place in (folder, tmp_path / "preview") for path in place.rglob("*") if path.is_file()]
    assert {"README.md", "rm_toolkit.json", "trainer_state.json", "optimizer.pt"} <= {path.name for path in files}
    assert not [path for path in files if path.name == "training_args.bin"]
    for path in files:
        content = path.read_bytes()
        assert TOKEN.encode() not in content and PASSWORD.encode() not in content, path
    printed = capfd.readouterr()
    assert TOKEN not in printed.out + printed.err


def _has_tensorboard():
    from transformers.integrations import is_tensorboard_available

    return is_tensorboard_available()


# ---- pickles ----


@pytest.fixture
def pickled(base_model, tmp_path):
    """The tiny Llama, saved as a pickle as in earlier years."""
    import shutil

    folder = tmp_path / "old model"
    shutil.copytree(base_model(), folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def test_pickled_weights_are_refused_with_a_command_that_converts_them(pickled, base_model):
    with pytest.raises(InputError, match="weights in pickles") as error:
        RewardModel.from_pretrained(str(pickled))
    command = re.search(r'python -c ".*"', str(error.value))[0]
    subprocess.run(command.replace("python", sys.executable, 1), shell=True, check=True, capture_output=True)
    RewardModel.from_pretrained(str(pickled))
    found, expected = load_file(pickled / "model.safetensors"), load_file(Path(base_model()) / "model.safetensors")
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_pickle_that_runs_code_is_never_opened(pickled, tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'owned'}",)

    import pickle

    for name in ("pytorch_model.bin", "adapter_model.bin", "training_args.bin", "optimizer.pt", "rng_state.pth"):
        (pickled / name).write_bytes(pickle.dumps(Evil()))
    for _ in range(2):
        with pytest.raises(InputError):
            RewardModel.from_pretrained(str(pickled))
        (pickled / "config.json").unlink(missing_ok=True)  # next, as an adapter
        (pickled / "adapter_config.json").write_text(
            json.dumps({"peft_type": "LORA", "task_type": "SEQ_CLS", "base_model_name_or_path": str(pickled), "r": 2})
        )
    assert not (tmp_path / "owned").exists()


def test_code_that_comes_with_a_model_does_not_run_unless_asked(base_model, tmp_path):
    import shutil

    folder = tmp_path / "own-code"
    shutil.copytree(base_model(), folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "homemade", "auto_map": {"AutoConfig": "configuration_homemade.HomemadeConfig"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "configuration_homemade.py").write_text(
        f"open({str(tmp_path / 'owned')!r}, 'w')\nfrom transformers import LlamaConfig\n"
        "class HomemadeConfig(LlamaConfig):\n    model_type = 'homemade'\n"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home")}
    code = f"from rm_toolkit.models.reward_model import RewardModel; RewardModel.from_pretrained({str(folder)!r})"
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, input="y\n")
    assert result.returncode and "trust_remote_code" in result.stderr
    assert not (tmp_path / "owned").exists()


def test_a_checkpoint_s_optimizer_that_was_swapped_for_a_pickle_is_not_opened(make_trainer, rows, tmp_path):
    import pickle

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'owned'}",)

    trainer = make_trainer(rows.pairs(4), save_strategy="epoch", num_train_epochs=1)
    trainer.train()
    (tmp_path / "run" / "checkpoint-1" / "optimizer.pt").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError, match=r"'optimizer\.pt' has"):
        make_trainer(rows.pairs(4)).train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
    assert not (tmp_path / "owned").exists()


# ---- code from outside, in every command ----


@pytest.fixture
def with_code(reward_model, tmp_path):
    """A reward model whose architecture its own code defines, and the file that this code writes when it runs."""
    import shutil

    folder, canary = tmp_path / "with-code", tmp_path / "canary"
    shutil.copytree(reward_model(), folder)
    for name, classes in (
        (
            "config.json",
            {
                "AutoConfig": "code_canary.HomebrewedConfig",
                "AutoModelForSequenceClassification": "code_canary.HomebrewedModel",
            },
        ),
        ("tokenizer_config.json", {"AutoTokenizer": [None, "code_canary.HomebrewedTokenizer"]}),
    ):
        values = json.loads((folder / name).read_text())
        values["auto_map"] = classes
        (folder / name).write_text(json.dumps(values))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps({**config, "model_type": "homebrewed", "architectures": ["HomebrewedModel"]})
    )
    (folder / "code_canary.py").write_text(
        f"with open({str(canary)!r}, 'a') as file:\n    file.write('ran')\n"
        "from transformers import AutoModel, LlamaConfig, LlamaForSequenceClassification, LlamaModel, PreTrainedTokenizerFast\n"
        "class HomebrewedConfig(LlamaConfig):\n    model_type = 'homebrewed'\n"
        "class HomebrewedBase(LlamaModel):\n    config_class = HomebrewedConfig\n"
        "AutoModel.register(HomebrewedConfig, HomebrewedBase, exist_ok=True)\n"
        "class HomebrewedModel(LlamaForSequenceClassification):\n    config_class = HomebrewedConfig\n"
        "class HomebrewedTokenizer(PreTrainedTokenizerFast):\n    pass\n"
    )
    return folder, canary


def readers_of(folder, tmp_path):
    """Every command that reads a model, applied to this one."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n' * 4)
    (tmp_path / "score.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    spec, out, model = f"{{path: {rows}, source: jsonl}}", ["--output", str(tmp_path / "out.jsonl")], str(folder)
    tiny, launch = tmp_path / "recipe.yaml", ROOT / "accelerate_configs" / "multi_gpu.yaml"
    recipe = (ROOT / "recipes" / "tiny" / "grft.yaml").read_text()
    tiny.write_text("".join(line for line in recipe.splitlines(True) if not line.startswith("tiny_base")))
    return {
        "score": ["score", "--model", model, "--input", str(tmp_path / "score.jsonl"), *out],
        "evaluate": ["evaluate", "--model", model, "--datasets", f"a={spec}", *out],
        "inspect": ["inspect", spec, "--tokenizer", model, "--no-word-clouds", *out],
        "merge": ["merge", "--general", model, "--customized", model, "--weight", "0.5", *out],
        "push": ["push", "--model", model, "--repo-id", "me/x", "--preview", str(tmp_path / "preview")],
        "plan": [
            "plan",
            "--config",
            str(tiny),
            "--accelerate-config",
            str(launch),
            "--model_name_or_path",
            model,
        ],
    }


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("command", ["score", "evaluate", "inspect", "merge", "push", "plan"])
def test_no_command_runs_code_that_comes_with_a_model(command, with_code, tmp_path, monkeypatch, capfd):
    folder, canary = with_code
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code = main(readers_of(folder, tmp_path)[command])
    assert not canary.exists()
    printed = capfd.readouterr().err
    # A tokenizer of an unknown class is read from tokenizer.json, without its code.
    assert (code == 2 and "trust_remote_code" in printed) or (command == "inspect" and code == 0), printed
    assert "Traceback" not in printed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_code_that_was_asked_for_runs_also_in_the_reload_check(with_code, tmp_path, monkeypatch):
    from rm_toolkit.scoring.reload_check import check_reload
    from rm_toolkit.scoring.scorer import RewardScorer

    folder, canary = with_code
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    rewards = RewardScorer(str(folder), trust_remote_code=True, device="cpu").score(["", ""], ["one text", "another"])
    assert canary.read_text()
    canary.unlink()
    with pytest.raises(InputError, match="trust_remote_code"):
        check_reload(folder, ["one text", "another"], rewards)
    assert not canary.exists()
    assert check_reload(folder, ["one text", "another"], rewards, trust_remote_code=True)
    assert canary.exists()


@pytest.mark.parametrize("kind", ["script", "pickle", "torch", "numpy"])
def test_data_that_could_run_code_are_refused(kind, tmp_path, monkeypatch, capfd):
    import pickle

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'owned'}",)

    folder = tmp_path / "data"
    folder.mkdir()
    name = {"script": "data.py", "pickle": "rows.pkl", "torch": "rows.pt", "numpy": "rows.npy"}[kind]
    code = f"open({str(tmp_path / 'owned')!r}, 'w')\n"
    (folder / name).write_bytes(code.encode() if kind == "script" else pickle.dumps(Evil()))
    if kind == "torch":
        torch.save(Evil(), folder / name)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for place in (folder, folder / name):
        assert (
            main(
                ["inspect", f"{{path: {place}, source: jsonl}}", "--output", str(tmp_path / "out"), "--no-word-clouds"]
            )
            == 2
        )
        assert main(["build-data", "jsonl", "--input", str(place), "--output", str(tmp_path / "built")]) == 2
        assert main(["inspect", str(place), "--output", str(tmp_path / "out"), "--no-word-clouds"]) == 2
    assert not (tmp_path / "owned").exists()
    assert "Traceback" not in capfd.readouterr().err
