"""
Tries every kind of user mistake. Each must end in one short error and exit code 2, before any long work and before
anything is written.

    python benchmarks/mistakes.py                    # settings, options, files, command lines: a table of kinds
    python benchmarks/mistakes.py --part settings    # one of them
    python benchmarks/mistakes.py --failures         # also print the failures

The cases for settings and options are derived from the dataclasses and parsers (`mistaken_values.py`), so new ones are
covered as soon as they are added. The default test run tries the same cases (`tests/test_mistakes.py`).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from folder_commands import build as build_model
from mistaken_files import mistaken_data, mistaken_yaml
from mistaken_values import OTHERS, RECIPES, options_of, parsers, settings_of, wrong_values, wrong_words

from rm_toolkit.cli import main as run_command
from rm_toolkit.collection.domains import load_domains
from rm_toolkit.errors import InputError
from rm_toolkit.output.ranges import Number
from rm_toolkit.study.grid import load_study
from rm_toolkit.training.plan.launch import read_launch
from rm_toolkit.training.recipe import parse_recipe
from rm_toolkit.training.recipe_file import check_values


ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "recipes" / "tiny" / "grft.yaml"
LONGEST = 700  # limit on the length of a message, in characters
SECONDS = 240  # time limit for a refusal, imports included, on a busy machine

Case = tuple[str, str, Callable[[], Any], str]  # kind, name, the mistake, a string that the message must contain


class TooLong(BaseException):
    """Raised when a case takes longer than `SECONDS`."""


def settings() -> Iterator[Case]:
    """Each wrong value of each field of each dataclass, in YAML or from Python; wrong numbers also as flags."""
    classes = {group for groups in RECIPES.values() for group in groups}
    for kind in sorted(classes, key=lambda group: group.__name__):
        for name, rule in settings_of(kind).items():
            for what, value in wrong_values(rule) if rule is not None else ():
                label = f"{kind.__name__}.{name} = {str(value)[:40]!r}"
                yield f"settings in YAML: {what}", label, _yaml_value(kind, name, value), name
    for name, rule in {k: r for group in RECIPES["grft and crft"] for k, r in settings_of(group).items()}.items():
        rule = getattr(rule, "of", rule)
        for what, word in wrong_words(rule) if isinstance(rule, Number) else ():
            if word and what != "empty":
                yield f"settings as flags: {what}", f"--{name} {word[:40]}", _flag(name, word), name
    for kind in OTHERS:
        for name, rule in settings_of(kind).items():
            for what, value in wrong_values(rule) if rule is not None else ():
                yield f"settings from Python: {what}", f"{kind.__name__}.{name}", _rule(rule, name, value), name


def options() -> Iterator[Case]:
    """Each wrong value of each option of each command."""
    for command, parser in parsers().items():
        for action, rule in options_of(parser):
            for what, word in wrong_words(rule):
                flag = [action.option_strings[0]] if action.option_strings else []
                label = f"{command} {' '.join(flag)} {word[:40]!r}"
                yield (
                    f"options: {what}",
                    label,
                    lambda p=parser, f=flag, w=word: p.parse_known_args([*f, w]),
                    "argument",
                )


def files() -> Iterator[Case]:
    """Each broken file, with each command or function that reads files of its kind."""
    rows, yaml = Path(tempfile.mkdtemp(prefix="mistaken-")), Path(tempfile.mkdtemp(prefix="mistaken-"))
    output, place = str(rows / "output"), Path(tempfile.mkdtemp(prefix="mistaken-"))
    build_model(place, data_format="text")
    model = ["--model", str(place / "model")]
    for name, path in mistaken_data(rows).items():
        build = ["build-data", "auto", "--input", str(path), "--output", output]
        inspect = ["inspect", str(path), "--output", output, "--no-word-clouds"]
        score = ["score", *model, "--input", str(path), "--output", output]
        evaluate = ["evaluate", *model, "--datasets", f"a={path}", "--output", output]
        for words in (build, inspect, score, evaluate):
            yield f"rows, {words[0]}", name, _command(words, output), "/"
    readers = {
        "recipe": lambda path: parse_recipe(path, ["--config", str(path)]),
        "launch config": read_launch,
        "domains": load_domains,
        "study": load_study,
    }
    for name, path in mistaken_yaml(yaml).items():
        for what, read in readers.items():
            yield f"YAML, {what}", name, lambda r=read, p=path: r(p), path.name[:20]


def command_lines() -> Iterator[Case]:
    """Options that are missing, unknown or contradictory, and recipes with wrong overrides; each in a new process."""
    folder = tempfile.mkdtemp(prefix="mistaken-")
    output = f"{folder}/out"
    tool = [sys.executable, "-m", "rm_toolkit.cli"]
    rows = "data/samples/webgpt.test.jsonl"
    lines = {
        "no such command": ["buid-data"],
        "nothing given": ["score"],
        "a misspelt option": ["score", "--modle", "x"],
        "no such device": ["evaluate", "--model", "x", "--datasets", "a=b", "--output", output, "--device", "banana"],
        "an empty output": ["inspect", rows, "--output", ""],
        "an output that is a file": ["build-data", "auto", "--input", rows, "--output", rows],
        "an output below a file": ["build-data", "auto", "--input", rows, "--output", f"{rows}/x"],
        "an unknown choice": ["build-data", "auto", "--input", rows, "--output", output, "--layout", "pear"],
        "nothing to write": ["build-data", "webgpt", "--input", rows],
        "options of another mode": ["merge", "--general", "a", "--customized", "b", "--output", output, "--weights", "1"],
        "two modes at once": ["merge", "--general", "a", "--customized", "b", "--output", output, "--weight", "1", "--frontier"],
        "a spec of braces with a key twice": ["inspect", "{path: a, path: b}", "--output", output],
        "a spec nested 9,000 deep": ["inspect", "{path: " + "[" * 9000, "--output", output],
    }  # fmt: skip
    for name, words in lines.items():
        yield "command lines", name, _process([*tool, *words], output), "error"
    flags = {
        "a learning rate of NaN": ["--learning_rate", "nan"],
        "eval_steps 0": ["--eval_steps", "0"],
        "lm_loss_coef NaN": ["--lm_loss_coef", "nan"],
        "best model without a metric": ["--load_best_model_at_end", "true", "--save_strategy", "steps", "--save_steps", "20"],
        "a misspelt flag": ["--learning_rte", "1"],
        "tiny_base misspelt": ["--tiny_base", '{"vocab_sise": 512}'],
        "tiny_base with a key twice": ["--tiny_base", '{"vocab_size": 512, "vocab_size": 513}'],
        "a schedule's key misspelt": ["--lr_scheduler_type", "cosine_with_min_lr", "--lr_scheduler_kwargs", '{"min_rl": 1}'],
        "a million layers": ["--tiny_base", '{"num_layers": 1000000}'],
    }  # fmt: skip
    for recipe in ("grft", "sft"):
        for name, words in flags.items():
            if recipe == "sft" and "lm_loss" in words[0]:
                continue
            launch = [sys.executable, f"recipes/{recipe}.py", "--output_dir", output, "--use_cpu", "true", *words]
            yield f"recipe {recipe}", name, _process(launch, output), "error"


PARTS = {"settings": settings, "options": options, "files": files, "command-lines": command_lines}


def _yaml_value(kind: type, name: str, value: Any) -> Callable[[], Any]:
    return lambda: check_values({name: value}, {name}, "recipe.yaml", [kind])


def _rule(rule: Any, name: str, value: Any) -> Callable[[], Any]:
    return lambda: rule.check(name, value)


def _flag(name: str, word: str) -> Callable[[], Any]:
    return lambda: parse_recipe(TINY, ["--use_cpu", "true", "--bf16", "false", f"--{name}={word}"])


def _command(words: list[str], output: str) -> Callable[[], Any]:
    def run() -> None:
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            code = run_command(words)
        _judge(code, said.getvalue(), output)

    return run


def _process(words: list[str], output: str) -> Callable[[], Any]:
    def run() -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
        ended = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS)
        _judge(ended.returncode, ended.stderr, output)

    return run


def _judge(code: int, said: str, output: str) -> None:
    """Raises the printed error as an `InputError`, or an `AssertionError` if the command ended in any other way."""
    lines = [line for line in said.replace("\r", "\n").splitlines() if line.strip()]
    if code != 2 or Path(output).exists() or not lines or not lines[-1].startswith("error: "):
        raise AssertionError(f"exit code {code}, {lines[-1:]}")
    if any("Traceback" in line for line in lines) or sum(line.startswith("error: ") for line in lines) > 1:
        raise AssertionError("more than one error")
    raise InputError(lines[-1])


def held(case: Case) -> str | None:
    """Tries a case. Returns `None` if it was refused clearly, else what happened."""
    _, _, act, names = case

    def late(*_: Any) -> None:
        raise TooLong

    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        act()
    except InputError as error:
        message = str(error)
        if names not in message or "\n" in message or len(message) > LONGEST:
            return f"unclear: {message[:200]}"
        return None
    except (Exception, TooLong, SystemExit) as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.alarm(0)
    return "accepted"


def main() -> None:
    """Tries all cases and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", nargs="+", choices=PARTS, default=list(PARTS), help="which parts (default: all)")
    parser.add_argument("--failures", action="store_true", help="also print the failures")
    args = parser.parse_args()
    tried, kept, began = Counter(), Counter(), time.monotonic()
    for part in args.part:
        for case in PARTS[part]():
            problem = held(case)
            tried[case[0]] += 1
            kept[case[0]] += problem is None
            if problem is not None and args.failures:
                print(f"not held: {case[0]} | {case[1]} | {problem}", flush=True)
    width = max(map(len, tried))
    print(f"{'kind':<{width}}  tried  held")
    for kind, number in tried.items():
        print(f"{kind:<{width}}  {number:>5}  {kept[kind]:>4}")
    print(f"{'all':<{width}}  {tried.total():>5}  {kept.total():>4}   in {time.monotonic() - began:.0f} s")
    sys.exit(tried != kept)


if __name__ == "__main__":
    main()
