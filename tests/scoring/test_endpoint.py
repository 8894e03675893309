"""A scorer without weights: a server's rewards in the local scorer's order, after a known example; and refusals."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from datasets import Dataset
from reward_server import ServedState, reward_server

from rm_toolkit.cli import main
from rm_toolkit.cli.evaluate import parse_endpoints
from rm_toolkit.errors import InputError
from rm_toolkit.evaluation import evaluate
from rm_toolkit.scoring import endpoint
from rm_toolkit.scoring.example import ScoredExample, example_text, read_example, write_example
from rm_toolkit.scoring.scorer import RewardScorer


@pytest.fixture(scope="module")
def local(reward_model):
    """`local(data_format)`: a local scorer and its folder, which contains the example."""
    made = {}

    def get(data_format="text"):
        if data_format not in made:
            folder = reward_model("llama", data_format=data_format, max_length=64)
            scorer = RewardScorer(folder, device="cpu")
            prompt, completion = example_text(data_format)
            write_example(folder, ScoredExample(prompt, completion, *scorer.score([prompt], [completion])))
            made[data_format] = folder, scorer
        return made[data_format]

    return get


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(endpoint, "FIRST_WAIT", 0.001)
    monkeypatch.setattr(endpoint, "LONGEST_WAIT", 0.01)
    monkeypatch.delenv(endpoint.KEY_VARIABLE, raising=False)


def texts(rows, data_format):
    """Prompts and completions of several forms: single, a list, over-long, Unicode, empty."""
    made = rows.ranked(5, seed=2)
    prompts, completions = [row["prompt"] for row in made], [row["completions"] for row in made]
    completions[1], completions[2] = completions[1][0], ["river " * 80, "", "é ✓ 北"]
    if data_format == "chat":
        prompts = [[{"role": "user", "content": prompt}] for prompt in prompts]
    return prompts, completions


@pytest.mark.parametrize("kind", ["vllm", "vllm pooling", "sglang"])
@pytest.mark.parametrize("data_format", ["text", "chat"])
def test_a_server_gives_the_local_rewards_in_the_same_form(local, rows, kind, data_format):
    folder, scorer = local(data_format)
    prompts, completions = texts(rows, data_format)
    state = ServedState(folder, kind, max_length=64 + (kind == "sglang"))
    with reward_server(state) as address:
        served = RewardScorer(folder, endpoint=f"{address}/v1/", tokens_per_batch=100)
        found = served.score(prompts, completions)
    assert served.model is None and served.settings.max_length == 64
    for reward, expected in zip(found, scorer.score(prompts, completions), strict=True):
        assert isinstance(reward, list) == isinstance(expected, list)
        np.testing.assert_allclose(reward, expected, atol=1e-5)
    assert len(state.bodies) > 3, "several requests, whose answers come in any order"
    sent = [ids for body in state.bodies for ids in body["input_ids" if kind == "sglang" else "input"]]
    assert max(map(len, sent)) == 64 and all(isinstance(token, int) for ids in sent for token in ids)
    best, _ = scorer.best_of_n(prompts[0], completions[0])
    with reward_server(state) as address:
        assert RewardScorer(folder, endpoint=address).best_of_n(prompts[0], completions[0])[0] == best


def test_another_model_behind_the_address_is_refused(local):
    folder, _ = local()
    with reward_server(ServedState(folder, offset=0.01)) as address:
        with pytest.raises(
            InputError, match=r"the example of .* the reward .* Start it with: vllm serve .*--max-model-len 64"
        ):
            RewardScorer(folder, endpoint=address)
    with reward_server(ServedState(folder, max_length=48)) as address:
        with pytest.raises(InputError, match="accepts texts of at most 48 tokens, but the model reads 64"):
            RewardScorer(folder, endpoint=address)
    # A context of 64 is too short by one for sglang, which refuses a text as long as its context.
    with reward_server(ServedState(folder, "sglang", max_length=64)) as address:
        with pytest.raises(InputError, match="at most 63 tokens"):
            RewardScorer(folder, endpoint=address)


def test_a_model_without_an_example_is_served_with_a_warning(local, tmp_path, caplog, capsys):
    folder = shutil.copytree(local()[0], tmp_path / "rm")
    values = json.loads((folder / "rm_toolkit.json").read_text())
    reward = values.pop("example")["reward"]
    (folder / "rm_toolkit.json").write_text(json.dumps(values))
    with reward_server(ServedState(str(folder))) as address, caplog.at_level(logging.WARNING):
        RewardScorer(folder, endpoint=address)
    assert "has no example with its reward" in caplog.text and "--write-example" in caplog.text
    assert main(["serve-command", str(folder), "--server", "vllm", "--write-example"]) == 0
    assert read_example(folder).reward == pytest.approx(reward, abs=1e-6)
    assert capsys.readouterr().out.startswith(f"vllm serve {folder} ")


def test_the_example_of_a_card_is_read_where_the_settings_have_none(local, tmp_path):
    folder = shutil.copytree(local()[0], tmp_path / "rm")
    known = read_example(folder)
    values = json.loads((folder / "rm_toolkit.json").read_text())
    del values["example"]
    (folder / "rm_toolkit.json").write_text(json.dumps(values))
    line = f"rewards = scorer.score([{known.prompt!r}], [{known.completion!r}])  # [{known.reward:.4f}]"
    (folder / "README.md").write_text(f"# x\n```python\n{line}\n```\n")
    found = read_example(folder)
    assert (found.prompt, found.completion) == (known.prompt, known.completion)
    assert found.reward == pytest.approx(known.reward, abs=1e-4)
    with reward_server(ServedState(str(folder), offset=0.01)) as address:
        with pytest.raises(InputError, match="gives the example"):
            RewardScorer(folder, endpoint=address)


@pytest.mark.parametrize("fault", ["500", "503", "hang up"])
def test_what_passes_is_tried_again(local, rows, fault):
    folder, scorer = local()
    state = ServedState(folder)
    state.faults = lambda number: fault if number in (1, 2, 4, 5) else None
    prompts, completions = texts(rows, "text")
    with reward_server(state) as address:
        found = RewardScorer(folder, endpoint=address).score(prompts, completions)
    np.testing.assert_allclose(found[0], scorer.score(prompts, completions)[0], atol=1e-5)
    assert state.number > state.answered


def test_what_does_not_pass_is_final(local, rows):
    folder, _ = local()
    state = ServedState(folder)
    prompts, completions = texts(rows, "text")
    for fault, message, tries in [
        ("400", r"refuses the request \(400\): trouble number 2", 1),
        ("503", r"does not answer POST /classify after 8 tries \(503: trouble", 8),
        ("no JSON", "did not return JSON", 1),
        ("one too few", "rewards for .* texts", 1),
        ("nan", "not finite", 1),
    ]:
        state.number, state.faults = 0, lambda number, fault=fault: fault if number > 1 else None
        with reward_server(state) as address, pytest.raises(InputError, match=message):
            RewardScorer(folder, endpoint=address).score(prompts[:1], completions[:1])
        assert state.number == 1 + tries
    with pytest.raises(InputError, match=r"does not answer GET /v1/models after 8 tries .*Is the server running"):
        RewardScorer(folder, endpoint=address)  # the server has ended


def test_a_server_that_never_answers_is_given_up(local):
    state = ServedState(local()[0])
    with reward_server(state) as address:
        served = endpoint.ServedModel(address, max_length=8, answer_timeout=0.05, attempts=2)
        state.delay = 0.3
        with pytest.raises(InputError, match=r"after 2 tries .*Timeout"):
            served.ask([[1, 5]])


def test_the_key_comes_from_the_environment_and_is_not_shown(local, monkeypatch):
    folder, _ = local()
    with reward_server(ServedState(folder, key="sk-secret-word")) as address:
        with pytest.raises(
            InputError, match=r"refuses the API key \(401\). Put the server's key into .*RM_TOOLKIT_API_KEY"
        ):
            RewardScorer(folder, endpoint=address)
        monkeypatch.setenv("RM_TOOLKIT_API_KEY", "sk-wrong-word")
        with pytest.raises(InputError, match="Check the key") as raised:
            RewardScorer(folder, endpoint=address)
        assert "wrong-word" not in str(raised.value)
        monkeypatch.setenv("RM_TOOLKIT_API_KEY", "sk-secret-word")
        state = ServedState(folder, key="sk-secret-word")
        state.faults = lambda number: "400"
    with (
        reward_server(state) as address,
        pytest.raises(InputError, match="trouble number 1, Bearer <hidden> and") as raised,
    ):
        RewardScorer(folder, endpoint=address)
    assert "sk-secret-word" not in str(raised.value)  # although the server repeated it


def test_what_has_no_effect_at_a_server_is_refused(local):
    folder, scorer = local()
    for options, message in [
        ({"device": "cpu"}, "`device` has no effect with `endpoint`"),
        ({"adapters": {"a": folder}}, "serve the merged model"),
    ]:
        with pytest.raises(InputError, match=message):
            RewardScorer(folder, endpoint="http://127.0.0.1:9", **options)
    with pytest.raises(InputError, match="loaded model"):
        RewardScorer(scorer.model, scorer.tokenizer, endpoint="http://127.0.0.1:9")
    for address, message in [("localhost:8000", "must be like"), ("http://me:word@localhost", "has a user")]:
        with pytest.raises(InputError, match=message) as raised:
            RewardScorer(folder, endpoint=address)
        assert "word" not in re.sub("password", "", str(raised.value))


def test_score_goes_on_with_a_server_that_was_started_anew(local, rows, tmp_path, capsys):
    """The first server stops responding halfway; the second one, at another address, is asked only for the rest."""
    folder, scorer = local()
    made = rows.ranked(40, seed=6)
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps({key: row[key] for key in ("prompt", "completions")}) + "\n" for row in made))
    command = ["score", "--model", str(folder), "--input", str(source), "--output", str(output), "--window", "8"]
    first, second = ServedState(folder), ServedState(folder)
    first.faults = lambda number: "503" if number > 3 else None
    with reward_server(first) as address:
        assert main([*command, "--endpoint", address]) == 2
    assert "does not answer POST /classify" in capsys.readouterr().err and not output.exists()
    with reward_server(second) as address:
        assert main([*command, "--endpoint", address]) == 0
    assert "16 of them by an earlier run" in capsys.readouterr().out  # two windows, and the example before them
    assert second.texts < 100 and first.texts + second.texts == 2 + sum(len(row["completions"]) for row in made)
    found = [json.loads(line)["reward"] for line in output.read_text().splitlines()]
    expected = scorer.score([row["prompt"] for row in made], [row["completions"] for row in made])
    for reward, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(reward, wanted, atol=1e-5)
    # A local run does not continue the output of a server.
    assert main([*command, "--device", "cpu"]) == 2


def test_evaluate_asks_a_server(local, rows):
    folder, _ = local()
    tests, state = {"mine": Dataset.from_list(rows.pairs(6, seed=3))}, ServedState(folder)
    options = {"resamples": 10, "show_progress": False}
    with reward_server(state) as address:
        served = evaluate({"rm": folder}, tests, endpoints={"rm": address}, **options).metrics
    here = evaluate({"rm": folder}, tests, device="cpu", **options).metrics
    assert state.texts == 1 + 12
    assert served["results"]["rm"]["mine"]["accuracy"]["value"] == here["results"]["rm"]["mine"]["accuracy"]["value"]
    assert served["models"]["rm"].pop("endpoint") == address and served["models"] == here["models"]


def test_an_address_is_for_the_one_model_or_for_the_one_named():
    assert parse_endpoints(["http://a:1/?x"], ["rm"]) == {"rm": "http://a:1/?x"}
    assert parse_endpoints(["b=http://a:1"], ["a", "b"]) == {"b": "http://a:1"}
    for given, models, message in [
        (["c=http://x"], ["a", "b"], "no model is named 'c'"),
        (["http://x"], ["a", "b"], "write NAME=URL"),
        (["a=http://x", "a=http://y"], ["a"], "given twice"),
    ]:
        with pytest.raises(InputError, match=message):
            parse_endpoints(given, models)


@pytest.mark.slow
def test_five_thousand_rows_survive_a_killed_client_and_a_restarted_server(local, rows, tmp_path):
    """The client is killed halfway; then the server ends and restarts while a second client waits for it."""
    folder, scorer = local()
    made = rows.pairs(5000, seed=8)
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(
        "".join(json.dumps({"prompt": row["prompt"], "completion": row["chosen"]}) + "\n" for row in made)
    )
    command = [sys.executable, "-m", "rm_toolkit.cli", "score", "--model", str(folder), "--input", str(source)]
    command += ["--output", str(output), "--window", "250", "--endpoint"]
    partial, state = tmp_path / "out.jsonl.partial", ServedState(folder)

    def written():
        return partial.read_bytes().count(b"\n") if partial.exists() else 0

    def wait_for(number):
        end = time.monotonic() + 300
        while written() < number and time.monotonic() < end:
            time.sleep(0.05)
        assert number <= written() < 5000

    with reward_server(state) as address:
        first = subprocess.Popen([*command, address], stderr=subprocess.DEVNULL)
        wait_for(1000)
        first.kill()
        first.wait()
        before = written()
        second = subprocess.Popen([*command, address], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        wait_for(before + 1000)
    time.sleep(1.5)  # the client finds no server, and retries
    with reward_server(state, port=int(address.rpartition(":")[2])):
        printed, _ = second.communicate(timeout=300)
    resumed = int(re.search(r"5,000 rows, ([\d,]+) of them by an earlier run", printed)[1].replace(",", ""))
    assert second.returncode == 0 and before - 250 <= resumed <= before  # killed while writing a window, or not
    found = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["completion"] for row in found] == [row["chosen"] for row in made]
    expected = scorer.score([row["prompt"] for row in made], [row["chosen"] for row in made])
    np.testing.assert_allclose([row["reward"] for row in found], expected, atol=1e-5)
