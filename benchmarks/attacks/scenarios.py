"""Scenarios to attack: every command and recipe with small inputs, and an earlier output that it replaces."""

from __future__ import annotations

import json
import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from attacks.runner import ROOT, Ended, Runner
from rm_toolkit.cli import COMMANDS


RECIPES = sorted(path.name for path in (ROOT / "recipes").glob("*.py"))
SMALL = {
    "max_steps": 4,
    "pairs_per_step": 8,
    "per_device_train_batch_size": 8,
    "max_length": 64,
    "eval_strategy": "no",
    "eval_on_start": "false",
    "save_strategy": "steps",
    "save_steps": 2,
    "save_total_limit": 2,
    "logging_steps": 1,
    "disable_tqdm": "true",
    "use_cpu": "true",
    "cpu_threads": 1,
    "seed": 1,
}


@dataclass(frozen=True)
class Scenario:
    """
    A command or a recipe to attack.

    Args:
        name (`str`): Name in the table.
        argv (`list[str]`): Command line; it writes into the area.
        target (`str`, *optional*): Name of its output in the area; `None` if it writes nothing.
        resumes (`list[str]`, *optional*): Command that continues after a stop, if it is not the same command.
        kept (`tuple[str, ...]`): Patterns of files in the area that an unfinished run may leave to continue from.
        old (`bool`): Whether there is an earlier output, which must not change until the new one is complete.
        model (`str`, *optional*): Input model that is copied into the area, because the command writes into its
            folder.
    """

    name: str
    argv: list[str]
    target: str | None
    resumes: list[str] | None = None
    kept: tuple[str, ...] = ()
    old: bool = True
    model: str | None = None

    @property
    def command(self) -> str:
        """Name of the command or recipe."""
        return self.argv[1] if self.argv[0] == "rm-toolkit" else Path(self.argv[0]).name


def flags(values: dict) -> list[str]:
    """Command-line words `--name value` for each item."""
    return [str(word) for key, value in values.items() for word in (f"--{key}", value)]


def write_pairs(path: Path, number: int, seed: int = 0, wrong: int = 0) -> None:
    """Writes `number` short rows, the first `wrong` of them reversed. Token ids of over a thousand rows are cached."""
    rng = random.Random(seed)
    words = [
        "good", "bad", "warm", "cold", "river", "stone", "paper", "green",
        "quiet", "early", "letter", "garden", "window",
    ]  # fmt: skip
    with path.open("w", encoding="utf-8") as file:
        for index in range(number):
            chosen, rejected = (" ".join(rng.choices(words, k=6)) for _ in range(2))
            sides = (f"{chosen} fine", rejected)
            chosen, rejected = sides[::-1] if index < wrong else sides
            row = {"prompt": f"say {rng.choice(words)} {index}", "chosen": chosen, "rejected": rejected}
            file.write(json.dumps(row) + "\n")


class Attacked:
    """
    The inputs, and the area that commands write into.

    Args:
        work (`Path`): An empty folder.
        runner (`Runner`): Starts the commands.
        llm (`str`): Address of the loopback server of a language model.
    """

    def __init__(self, work: Path, runner: Runner, llm: str):
        self.work, self.runner, self.llm = work, runner, llm
        self.area, self.inputs, self.olds = work / "area", work / "inputs", work / "olds"
        for folder in (self.area, self.inputs, self.olds):
            folder.mkdir(exist_ok=True)
        for name in ("tmp", "cache"):
            (self.area / name).mkdir(exist_ok=True)

    @property
    def env(self) -> dict[str, str]:
        return {"TMPDIR": str(self.area / "tmp")}

    def prepare(self) -> None:
        """Makes the inputs with the commands themselves."""
        write_pairs(self.inputs / "pairs.jsonl", 1100)
        write_pairs(self.inputs / "test.jsonl", 40, seed=1)
        write_pairs(self.inputs / "unsure.jsonl", 120, seed=2, wrong=20)  # a calibration needs some wrong pairs
        instructions = [{"instruction": f"What is number {index}?", "output": ""} for index in range(30)]
        (self.inputs / "instructions.json").write_text(json.dumps(instructions), encoding="utf-8")
        prompts = [{"prompt": f"say {index}", "completion": f"word {index}"} for index in range(300)]
        (self.inputs / "prompts.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in prompts), encoding="utf-8"
        )
        general = self.inputs / "general"
        self._must(self.recipe("grft.py", general))
        self._must(self.recipe("crft.py", self.inputs / "customized"))
        self._must(
            [
                "rm-toolkit",
                "build-data",
                "auto",
                "--input",
                f"{self.inputs}/test.jsonl",
                "--output",
                f"{self.inputs}/built",
            ]
        )

    def _must(self, argv: list[str]) -> Ended:
        ended = self.runner.run(argv, **self.env)
        if ended.code:
            sys.exit(f"{' '.join(argv)}\n{ended.out[-2000:]}{ended.err[-4000:]}\nended with {ended.code}")
        return ended

    def recipe(self, name: str, output: Path, **more: object) -> list[str]:
        """The command line of a recipe."""
        values = {**SMALL, "output_dir": output, "dataset_cache_dir": self.area / "cache", **more}
        data = json.dumps({"pairs": {"path": str(self.inputs / "pairs.jsonl")}})
        tests = json.dumps({"test": {"path": str(self.inputs / "test.jsonl")}})
        values |= {"train_datasets": data, "eval_datasets": tests}
        if name == "crft.py":
            values |= {"model_name_or_path": self.inputs / "general", "domain": "pairs"}
        else:
            values |= {"model_name_or_path": self.inputs / "tiny"}
        if name == "sft.py":
            del values["pairs_per_step"]
        return [str(ROOT / "recipes" / name), *flags(values)]

    def scenarios(self) -> list[Scenario]:
        """All scenarios. Exits if a command or recipe has none."""
        found = [*self._data(), *self._models(), *self._recipes()]
        missing = {*COMMANDS, *RECIPES} - {scenario.command for scenario in found}
        if missing:
            sys.exit(f"there is no scenario for {sorted(missing)}: add one to {__file__}")
        return found

    def _data(self) -> list[Scenario]:
        area, inputs, cache = self.area, self.inputs, ["--cache-dir", str(self.area / "cache")]
        build = ["rm-toolkit", "build-data", "auto", "--input", f"{inputs}/pairs.jsonl", *cache, "--overwrite"]
        collect = ["rm-toolkit", "collect", "--input", f"{inputs}/instructions.json", "--domains", "data/domains.yaml"]
        collect += [
            "--base-url",
            self.llm,
            "--model",
            "tiny-chat",
            "--output",
            f"{area}/answers.json",
            "--max-retries",
            "1",
        ]
        inspect = ["rm-toolkit", "inspect", f"{inputs}/test.jsonl", *cache, "--overwrite"]
        plan = ["--config", "recipes/tiny/grft.yaml", "--accelerate-config", "accelerate_configs/cpu.yaml"]
        push = ["rm-toolkit", "push-data", "--data", f"{inputs}/built", "--repo-id", "someone/data"]
        export = [*build, "--export", "text-score", f"{area}/export.json"]
        journal = ("answers.journal.jsonl", "answers.json", "answers.report.json")
        return [
            Scenario("build-data", [*build, "--output", f"{area}/built"], "built"),
            Scenario("build-data, ranked, 2 processes", [*build, "--output", f"{area}/ranked", "--layout", "ranked", "--num-proc", "2"], "ranked"),
            Scenario("build-data --export", export, "export.json"),
            Scenario("inspect", [*inspect, "--output", f"{area}/seen"], "seen"),
            Scenario("collect", collect, "answers.json", kept=journal, old=False),
            Scenario("plan", ["rm-toolkit", "plan", *plan], None),
            Scenario("doctor", ["rm-toolkit", "doctor", *plan], None),
            Scenario("push-data", push, None),
            Scenario("push-data --preview", [*push, "--preview", f"{area}/preview-data"], "preview-data", old=False),
        ]  # fmt: skip

    def _models(self) -> list[Scenario]:
        area, inputs, cache = self.area, self.inputs, ["--cache-dir", str(self.area / "cache")]
        tests = f"test={inputs}/test.jsonl"
        evaluate = ["rm-toolkit", "evaluate", "--model", f"{inputs}/general", "--datasets", tests, "--resamples", "20"]
        score = ["rm-toolkit", "score", "--model", f"{inputs}/general", "--input", f"{inputs}/prompts.jsonl"]
        merge = ["rm-toolkit", "merge", "--general", f"{inputs}/general", "--customized", f"{inputs}/customized"]
        frontier = [
            "--frontier",
            "--general-datasets",
            tests,
            "--customized-datasets",
            f"own={inputs}/test.jsonl",
            "--weights",
            "0.5",
            *cache,
        ]
        push = ["rm-toolkit", "push", "--model", f"{inputs}/general", "--repo-id", "someone/model"]
        partial = ("scored.jsonl.partial", "scored.jsonl.run.json")
        return [
            Scenario("evaluate", [*evaluate, *cache, "--output", f"{area}/report", "--overwrite"], "report"),
            Scenario("calibrate", ["rm-toolkit", "calibrate", "--model", f"{area}/general", "--datasets", f"unsure={inputs}/unsure.jsonl", *cache, "--overwrite"], "general", model="general"),
            Scenario("watch", ["rm-toolkit", "watch", f"{inputs}/general", "--output", f"{area}/page.html", "--once"], "page.html"),
            Scenario("doubt", self._doubt(), "doubt", kept=("doubt/*",), old=False),
            Scenario("score", [*score, "--window", "64", "--output", f"{area}/scored.jsonl", "--overwrite"], "scored.jsonl", kept=partial),
            Scenario("merge", [*merge, "--weight", "0.5", "--output", f"{area}/merged", "--overwrite"], "merged"),
            Scenario("merge --frontier", [*merge, *frontier, "--output", f"{area}/best", "--overwrite"], "best"),
            Scenario("serve-command", ["rm-toolkit", "serve-command", f"{inputs}/general"], None),
            Scenario("push", push, None),
            Scenario("push --preview", [*push, "--preview", f"{area}/preview-model"], "preview-model", old=False),
        ]  # fmt: skip

    def _doubt(self) -> list[str]:
        words = self.recipe("grft.py", self.area / "unused")[1:]
        at = words.index("--output_dir")
        words = ["--config", "recipes/tiny/grft.yaml", "--folds", "2", *words[:at], *words[at + 2 :]]
        return ["rm-toolkit", "doubt", "--output", f"{self.area}/doubt", *words]

    def _recipes(self) -> list[Scenario]:
        found = []
        for name in RECIPES:
            if name == "study.py":
                continue
            stage = name.removesuffix(".py")
            argv = self.recipe(name, self.area / stage)
            again = [*argv, "--resume_from_checkpoint", "auto"]
            found.append(Scenario(f"{name}", argv, stage, resumes=again, kept=(f"{stage}/*",), old=False))
        return [*found, self._study()]

    def _study(self) -> Scenario:
        study = self.inputs / "study.yaml"
        data = {"pairs": {"path": str(self.inputs / "pairs.jsonl")}}
        tests = {
            "test": {"path": str(self.inputs / "test.jsonl")},
            "dsp_all": {"path": str(self.inputs / "test.jsonl")},
        }
        small = {name: value for name, value in SMALL.items() if name != "seed"}
        grid = {
            "output_dir": str(self.area / "study"),
            "launch": [sys.executable],
            "seeds": [1],
            "base_models": {"tiny": {"model_name_or_path": str(self.inputs / "tiny")}},
            "grft": {"config": "recipes/tiny/grft.yaml", "flags": {**small, "eval_on_start": "true", "eval_datasets": tests}, "data": {"pairs": data}, "lm_loss_coef": [0]},
            "crft": {"config": "recipes/tiny/crft.yaml", "flags": {**small, "eval_on_start": "true", "train_datasets": data, "eval_datasets": tests}, "strategies": {"plain": {"lm_loss_coef": 0}}, "domains": ["all"]},
            "merge_weights": [],
            "general_sets": ["test"],
            "customized_set": "dsp_{domain}",
            "allowed_loss": 0.01,
        }  # fmt: skip
        study.write_text(json.dumps(grid), encoding="utf-8")  # JSON is YAML
        argv = [str(ROOT / "recipes" / "study.py"), "--config", str(study)]
        return Scenario("study.py", argv, "study", kept=("study/*",), old=False)

    def clear(self, scenario: Scenario) -> None:
        """Empties the area and puts the earlier output there."""
        for path in self.area.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        for name in ("tmp", "cache"):
            (self.area / name).mkdir()
        if scenario.model is not None and not (
            scenario.old and (self.olds / scenario.name.replace(" ", "_")).exists()
        ):
            shutil.copytree(self.inputs / scenario.model, self.area / scenario.model)
        for path in (self.olds / scenario.name.replace(" ", "_")).glob("*") if scenario.old else ():
            (shutil.copytree if path.is_dir() else shutil.copy2)(path, self.area / path.name)

    def make_old(self, scenario: Scenario, changed: Callable[[Path], None] | None = None) -> None:
        """Runs the command once and keeps its output as the earlier one."""
        if not scenario.old or scenario.target is None:
            return
        self.clear(scenario)
        self._must(scenario.argv)
        place = self.olds / scenario.name.replace(" ", "_")
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        for path in self.area.iterdir():
            if path.name not in ("tmp", "cache"):
                shutil.move(path, place / path.name)
