"""`rm-toolkit collect` with the real client, against a misbehaving loopback endpoint, and killed processes."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from llm_server import MODEL, default_reply, llm_server

from rm_toolkit.cli import main
from rm_toolkit.data.mixture import load_datasets


NAMES = ["law", "art", "sea"]


def lines_of(journal):
    return [json.loads(line) for line in journal.read_bytes().split(b"\n")[1:-1]] if journal.exists() else []


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    """Shortens the half second that the client waits before its first retry."""
    import openai._base_client

    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.02)


def test_answers_become_dsp_data_that_build_on(arguments, collected, tmp_path, capsys):
    with llm_server(delay=lambda: 0.05) as (address, state):
        assert main(arguments(address, 6, "--concurrency", "3", "--temperature", "0.7", "--max-tokens", "50")) == 0
    rows = collected()
    assert [row["query"] for row in rows] == [f"Question {k}?" for k in range(6)]
    for k, row in enumerate(rows):
        assert list(row["responses"]) == [*NAMES, "normal"] and row["responses"]["normal"] == f"Plain answer {k}."
        assert row["responses"]["art"] == default_reply("Artist with a brush.", row["query"])[0]
    assert set(state.answered.values()) == {1} and len(state.answered) == 18 and state.most_under_way == 3
    body = state.bodies[0]
    assert (body["temperature"], body["max_tokens"], body["seed"], body["model"]) == (0.7, 50, 0, MODEL)
    head = json.loads((tmp_path / "dsp.journal.jsonl").read_text().splitlines()[0])
    assert head["settings"]["temperature"] == 0.7 and head["settings"]["model"] == MODEL
    report = json.loads((tmp_path / "dsp.report.json").read_text())
    assert report["tokens"] == {"prompt": 18 * 7, "completion": 18 * 12} and report["kept_rows"] == 6
    assert "18 of 18 answers, 18 of them new; 126 prompt and 216 completion tokens" in capsys.readouterr().out
    spec = {"path": str(tmp_path / "dsp.json"), "source": "dsp", "domain": "art", "layout": "pairs"}
    assert len(load_datasets({"art": spec}, "train")["art"]) == 6 * 3


@pytest.mark.parametrize("fault", ["429", "500", "garbage", "html", "half", "no choices", "hang"])
def test_a_fault_is_retried_and_leaves_nothing_behind(arguments, collected, fault, capsys):
    with llm_server(faults=lambda number, question: fault if number in (2, 4) else None, hang=1.2) as (address, state):
        assert main(arguments(address, 2, "--timeout", "0.6", "--concurrency", "2")) == 0
    assert state.faulted == {fault: 2, None: 6} and set(state.answered.values()) == {1}
    assert len(collected()) == 2 and "never whole" not in json.dumps(collected())


def test_what_still_fails_is_said_and_asked_again_alone(arguments, collected, tmp_path, capsys):
    broken = {"on": True}

    def faults(number, question):
        return "500" if broken["on"] and question == ("Artist with a brush.", "Question 1?") else None

    with llm_server(faults=faults) as (address, state):
        command = arguments(address, 3, "--max-retries", "1")
        with pytest.raises(SystemExit) as left:
            main(command)
        out = capsys.readouterr().out
        assert left.value.code == 1
        assert "failed: 1 x status 500: The server had an error." in out and "1 questions have no answer" in out
        assert [row["query"] for row in collected()] == ["Question 0?", "Question 2?"]
        broken["on"], asked = False, len(state.asked)
        assert main(command) == 0
        assert state.asked[asked:] == [("Artist with a brush.", "Question 1?")] and len(collected()) == 3
        assert main(command) == 0 and len(state.asked) == asked + 1  # nothing is left to ask, so no request is sent
    assert "9 of 9 answers, 0 of them new" in capsys.readouterr().out


def test_an_endpoint_that_dies_ends_the_run_early(arguments, capsys):
    with llm_server(faults=lambda number, question: "500" if number > 9 else None) as (address, state):
        with pytest.raises(SystemExit) as left:
            main(arguments(address, 40, "--max-retries", "0", "--concurrency", "2"))
    assert left.value.code == 1 and len(state.asked) < 9 + 10 + 2 + 1
    assert "not asked after so many failures in a row" in capsys.readouterr().out


def test_a_changed_filter_asks_nothing_again(arguments, collected, capsys):
    def reply(system, query):
        if query == "Question 0?":
            return "I'm sorry, but I can't help with that.", "stop"
        if query == "Question 1?" and system.startswith("Sailor"):
            return "A tale cut sh", "length"
        if query == "Question 2?":
            return f"Everybody says the very same thing to this {query}", "stop"
        return ("", "stop") if query == "Question 3?" else default_reply(system, query)

    with llm_server(reply=reply) as (address, state):
        assert main(arguments(address, 6)) == 0
        assert [row["query"] for row in collected()] == ["Question 4?", "Question 5?"]
        table = [line.split() for line in capsys.readouterr().out.splitlines()]
        cells = {line[1]: [cell for cell in line if cell.isdigit()] for line in table if len(line) > 5}
        assert cells["sea"] == ["1", "1", "1", "0", "1"] and cells["rows"] == ["1", "1", "1", "0", "1"]
        assert main(arguments(address, 6, "--keep", "refusal", "truncated", "alike")) == 0
        assert [row["query"][9] for row in collected()] == ["0", "1", "2", "4", "5"]
        assert len(state.asked) == 18


def test_more_instructions_and_a_changed_domain_ask_what_is_new_alone(arguments, tmp_path):
    with llm_server() as (address, state):
        assert main(arguments(address, 4)) == 0
        assert main(arguments(address, 6)) == 0 and len(state.asked) == 18
        text = (tmp_path / "domains.yaml").read_text().replace("Sailor on a ship", "Sailor on a raft")
        command = arguments(address, 6)
        (tmp_path / "domains.yaml").write_text(text)
        assert main(command) == 0
    assert len(state.asked) == 24 and {system for system, _ in state.asked[18:]} == {"Sailor on a raft."}


def test_other_settings_are_refused(arguments, capsys):
    with llm_server() as (address, state):
        assert main(arguments(address, 2)) == 0
        assert main(arguments(address, 2, "--temperature", "none")) == 2
        assert "`temperature` 1.0 (now None)" in capsys.readouterr().err
        assert main(arguments(address, 2, "--temperature", "none", "--overwrite")) == 0
    assert len(state.asked) == 12 and "temperature" not in state.bodies[-1]


@pytest.mark.parametrize(
    ("variable", "message"),
    [("sk-wrong", "Check the key in the environment variable OPENAI_API_KEY"), (None, "Put the key into")],
)
def test_a_wrong_key_is_an_error_that_does_not_repeat_it(arguments, tmp_path, monkeypatch, capsys, variable, message):
    monkeypatch.setenv("OPENAI_API_KEY", variable) if variable else monkeypatch.delenv("OPENAI_API_KEY")
    with llm_server() as (address, state):
        assert main(arguments(address)) == 2
    error = capsys.readouterr().err
    assert "refuses the API key (401)" in error and message in error and "sk-wrong" not in error
    assert not state.asked
    for path in tmp_path.iterdir():
        assert "sk-" not in path.read_text()


def test_the_key_is_in_no_file(arguments, tmp_path, key):
    with llm_server() as (address, _):
        assert main(arguments(address)) == 0
    assert len(list(tmp_path.iterdir())) >= 5
    assert not [path for path in tmp_path.iterdir() if key in path.read_text()]


def test_keys_in_the_body_of_a_request_are_in_no_file(arguments, tmp_path, key, capfd):
    """Journal and report contain the settings without the keys, and the same command continues."""
    body = {"api_key": "body-canary-1", "nested": [{"Authorization": "Bearer body-canary-2"}], "top_k": 4}
    with llm_server() as (address, _):
        command = arguments(address, 2, "--extra-body", json.dumps(body))
        assert main(command) == 0
        assert main([*command, "--overwrite"]) == 0
    written = [path.read_text() for path in tmp_path.iterdir()]
    assert any('"top_k": 4' in text for text in written)
    hidden = ("body-canary-1", "body-canary-2", key)
    assert not any(secret in text for text in [*capfd.readouterr(), *written] for secret in hidden)


def test_an_unknown_model_is_named_with_those_there_are(arguments, capsys):
    with llm_server() as (address, _):
        assert main([*arguments(address), "--model", "tiny-chat2"]) == 2
    error = capsys.readouterr().err
    assert "--model is 'tiny-chat2'" in error and "Did you mean 'tiny-chat'?" in error


def test_settings_that_the_endpoint_refuses_stop_the_run(arguments, capsys):
    with llm_server(faults=lambda number, question: "400") as (address, state):
        assert main(arguments(address, 20)) == 2
    error = capsys.readouterr().err
    assert "Unsupported parameter: 'max_tokens'" in error and "'none' leaves one out" in error
    assert len(state.asked) < 12


def test_an_address_without_v1_is_a_clear_error(arguments, capsys):
    with llm_server() as (address, _):
        assert main(arguments(address.removesuffix("/v1"))) == 2
    assert "Most addresses end in `/v1`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--base-url", "http://127.0.0.1:9/v1"], "nothing answers there"),
        (["--base-url", "localhost:8000"], "must be like http://localhost:8000/v1"),
        (["--base-url", "http://me:word@127.0.0.1:9/v1"], "has a user, a password or a query"),
        (["--api-key-env", "NO_SUCH_KEY"], "there is no such environment variable"),
        (["--output", "dsp.jsonl"], "Give a name that ends in .json"),
        (["--concurrency", "0"], "argument --concurrency: it is '0'"),
        (["--extra-body", "[1]"], "must be a JSON object"),
        (["--timeout", "0"], "argument --timeout: it is '0'"),
        (["--timeout", "nan"], "argument --timeout: it is 'nan'"),
    ],
)
def test_a_mistake_is_named(arguments, capsys, more, message):
    assert main([*arguments("http://127.0.0.1:9/v1"), *more]) == 2
    error = capsys.readouterr().err
    assert message in error and "word" not in error.replace("password", "")


def test_one_domain_needs_answers_to_compare_with(arguments, tmp_path, capsys):
    with llm_server() as (address, _):
        command = arguments(address, 2)
        (tmp_path / "domains.yaml").write_text("domains: [{name: law, system_prompt: Lawyer.}]")
        assert main(command) == 0
        (tmp_path / "alpaca.json").write_text('[{"instruction": "Why?"}]')
        assert main(command) == 2
    assert "one domain ('law') gives no preference" in capsys.readouterr().err


def test_a_file_of_somebody_else_is_left_alone(arguments, tmp_path, capsys):
    (tmp_path / "dsp.json").write_text("mine")
    assert main(arguments("http://127.0.0.1:9/v1")) == 2
    assert "Pass --overwrite" in capsys.readouterr().err and (tmp_path / "dsp.json").read_text() == "mine"


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT")
def test_stopped_by_hand_it_says_how_to_go_on(arguments, tmp_path):
    journal = tmp_path / "dsp.journal.jsonl"
    with llm_server(delay=lambda: 0.3) as (address, state):
        command = [sys.executable, "-m", "rm_toolkit.cli", *arguments(address, 60, "--concurrency", "4")]
        heed = {
            "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)
        }  # would be ignored if the tests run in the background (`&`)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **heed)
        deadline = time.monotonic() + 120
        while len(lines_of(journal)) < 4:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "the same command continues from there" in err
    assert "Traceback" not in err and not (tmp_path / "dsp.json").exists()
    assert {line["query"] for line in lines_of(journal)} <= {query for _, query in state.answered}


def test_killed_three_times_nothing_is_lost_and_nothing_in_the_journal_asked_again(arguments, collected, tmp_path):
    """30 instructions x 3 domains, and one request in six fails; the server counts."""
    kinds = {1: "429", 7: "500", 13: "garbage", 19: "half", 25: "html", 31: "no choices"}
    journal, at_kill = tmp_path / "dsp.journal.jsonl", []
    with llm_server(faults=lambda number, question: kinds.get(number % 37), delay=lambda: 0.15) as (address, state):
        command = [sys.executable, "-m", "rm_toolkit.cli", *arguments(address, 30, "--concurrency", "8")]
        for target in (15, 40, 65):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
            deadline = time.monotonic() + 120
            while len(lines_of(journal)) < target:
                assert process.poll() is None and time.monotonic() < deadline, process.stderr.read().decode()
                time.sleep(0.05)
            process.kill()
            process.communicate()
            at_kill.append(({(line["domain"], line["query"]) for line in lines_of(journal)}, len(state.asked)))
        result = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    domain_of = {"Lawyer of long standing.": "law", "Artist with a brush.": "art", "Sailor on a ship.": "sea"}
    for kept, number in at_kill:
        later = {(domain_of[system], query) for system, query in state.asked[number:]}
        assert len(kept) < 90 and not kept & later
    assert len(state.answered) == 90 and sum(state.faulted[kind] for kind in kinds.values()) > 8
    # Only requests that were under way when the process died are sent again.
    assert sum(state.answered.values()) - 90 <= 3 * 8
    assert len({line["key"] for line in lines_of(journal)}) == len(lines_of(journal)) == 90
    rows = collected()
    assert len(rows) == 30 and all(list(row["responses"]) == [*NAMES, "normal"] for row in rows)
    assert all(
        row["responses"]["sea"] == default_reply("Sailor on a ship.", row["query"])[0] for row in rows
    )  # every answer belongs to its own question
    assert not [path for path in os.listdir(tmp_path) if path.startswith(".dsp.json.")]
