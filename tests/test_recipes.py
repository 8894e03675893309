"""Every recipe and launch config of the repository, parsed as strictly as a run parses them; and the README's claims."""

import re
import shlex
from pathlib import Path

import pytest
from trl import ModelConfig

from rm_toolkit.data.specs import parse_named_specs
from rm_toolkit.errors import InputError
from rm_toolkit.study.grid import cells, command, load_study
from rm_toolkit.training.recipe import parse_recipe
from rm_toolkit.training.sft import BaseLmArguments, BaseLmConfig


ROOT = Path(__file__).parents[1]
RECIPES = [*sorted((ROOT / "recipes").glob("*/[gc]rft.yaml")), ROOT / "benchmarks/published/tagged.yaml"]

STUDIES = [*sorted((ROOT / "recipes").glob("*/study.yaml")), *sorted((ROOT / "benchmarks/published").glob("*.yaml"))]
STUDIES = [path for path in STUDIES if "\nbase_models:" in path.read_text()]


def parse(path, *flags):
    # Settings that need a GPU are turned off; all names, types and the batch arithmetic are checked unchanged.
    return parse_recipe(path, ["--bf16", "false", "--use_cpu", "true", "--domain", "literature", *flags])


@pytest.fixture(autouse=True)
def _in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_the_recipes_of_the_readme_are_there():
    folders = {path.parent.name for path in RECIPES if path.is_relative_to(ROOT / "recipes")}
    assert folders == {"tiny", "llama-7b", "qwen3-0.6b", "smollm2-135m"}


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_recipe_parses_strictly(path):
    recipe, training, model = parse(path)
    assert recipe.train_datasets and recipe.eval_datasets
    assert model.model_name_or_path
    assert training.pairs_per_step % training.per_device_train_batch_size == 0
    assert training.activation_checkpointing is training.gradient_checkpointing
    assert path.read_text().startswith("# "), "the head of a recipe says hardware and batch arithmetic"


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_study_names_recipes_that_take_its_flags(path):
    """Each cell's command is parsed as the recipe parses it, except the launcher and a base that is not there."""
    study = load_study(path)
    for cell in cells(study):
        words = command(study, cell, Path("cell"), None if cell.stage == "grft" else Path("start"))
        config, *flags = words[words.index("--config") + 1 :]
        recipe, _, _ = parse(ROOT / config, *flags)
        assert set(study.general_sets) <= set(recipe.eval_datasets)
    assert path.read_text().startswith("# "), "the head of a study says hardware and hours"


@pytest.mark.parametrize("name", ["tiny", "smollm2-135m"])
def test_the_base_lm_recipe_parses_strictly(name):
    groups = (BaseLmArguments, BaseLmConfig, ModelConfig)
    recipe, training, model = parse_recipe(ROOT / f"recipes/{name}/sft.yaml", ["--use_cpu", "true"], groups=groups)
    assert recipe.train_datasets and model.model_name_or_path and training.max_length == 256


def test_the_paper_recipes_have_the_paper_values():
    _, grft, _ = parse(ROOT / "recipes/llama-7b/grft.yaml")
    _, crft, _ = parse(ROOT / "recipes/llama-7b/crft.yaml")
    assert (grft.learning_rate, grft.pairs_per_step, grft.warmup_steps, grft.eval_steps, grft.save_steps) == (
        1e-6,
        64,
        100,
        100,
        300,
    )
    assert (crft.learning_rate, crft.pairs_per_step, crft.warmup_steps, crft.eval_steps, crft.save_steps) == (
        1e-7,
        256,
        0,
        1,
        100,
    )
    for training in (grft, crft):
        assert training.num_train_epochs == 1 and training.max_length == 512 and training.weight_decay == 0
        assert training.pooling_type == "last" and not training.group_by_prompt and training.eval_on_start
        assert training.per_device_train_batch_size == 1 and training.pair_weighting == "prompt"


def test_flags_override_the_recipe_and_the_domain_is_filled_in():
    recipe, training, _ = parse(
        ROOT / "recipes/tiny/crft.yaml", "--learning_rate", "2e-6", "--eval_datasets", "a=x.json", "b=y:0.5"
    )
    assert training.learning_rate == 2e-6
    assert recipe.eval_datasets == {"a": "x.json", "b": "y:0.5"}
    assert list(recipe.train_datasets) == ["dsp_literature"]
    assert recipe.train_datasets["dsp_literature"]["domain"] == "literature"
    assert training.output_dir == "outputs/crft-literature"


def test_datasets_can_be_given_as_json():
    recipe, _, _ = parse(ROOT / "recipes/tiny/grft.yaml", "--train_datasets", '{"a": {"path": "x", "fraction": 0.5}}')
    assert recipe.train_datasets == {"a": {"path": "x", "fraction": 0.5}}


def test_a_recipe_reads_specs_as_every_command_does():
    spec = "pairs={path: x.jsonl, source: shp, columns: {prompt: q}}"
    recipe, _, _ = parse(ROOT / "recipes/tiny/grft.yaml", "--train_datasets", spec, "more=y.json:0.5")
    expected = {"path": "x.jsonl", "source": "shp", "columns": {"prompt": "q"}}
    assert recipe.train_datasets == {"pairs": expected, "more": "y.json:0.5"}
    assert recipe.train_datasets == parse_named_specs([spec, "more=y.json:0.5"], "--datasets")
    recipe, _, _ = parse(ROOT / "recipes/tiny/grft.yaml", "--train_datasets", "{pairs: {path: x.jsonl}}")
    assert recipe.train_datasets == {"pairs": {"path": "x.jsonl"}}


MISTAKES = {
    "a misspelt key": ("learning_rat: 1.0", [], r"there is no setting `learning_rat`. Did you mean 'learning_rate'\?"),
    "a key that is given twice": ("seed: 1\nseed: 2", [], "the key 'seed' is given twice"),
    "a number where a mapping belongs": ("train_datasets: 3", [], r"`train_datasets` is 3 \(int\), but must be dict"),
    "a number where a list belongs": (
        "lora_target_modules: 3",
        [],
        r"`lora_target_modules` is 3 \(int\), but must be list",
    ),
    "text where a number belongs": (
        "learning_rate: fast",
        [],
        r'`learning_rate` is "fast" \(str\), but must be float',
    ),
    "a list where a name belongs": ("output_dir: [a, b]", [], r"`output_dir` is .* \(list\), but must be str"),
    "a truth value where a number belongs": (
        "max_length: true",
        [],
        r"`max_length` is true \(bool\), but must be int",
    ),
    "no mapping at all": ("- a\n- b", [], "must have `name: value` lines, but is a list"),
    "broken YAML": ("a: [1", [], "is not valid YAML"),
    "an unknown flag": (
        "seed: 1",
        ["--learning_rte", "1"],
        r"'--learning_rte' is not a flag of this recipe. Did you mean '--learning_rate'\?",
    ),
    "an abbreviated flag": ("seed: 1", ["--learning", "1"], "'--learning' is not a flag of this recipe"),
    "an indivisible step": (
        "pairs_per_step: 10\nper_device_train_batch_size: 4",
        [],
        "`pairs_per_step` is 10, which 1 process",
    ),
    "an unknown pooling": ("pooling_type: mean", [], "`pooling_type` is 'mean'; it must be one of 'last', 'eos'"),
    "a negative coefficient": (
        "lm_loss_coef: -1.0",
        [],
        "`lm_loss_coef` is -1.0; it must be a number from 0 to 1,000",
    ),
    "the best model without a metric": (
        "load_best_model_at_end: true\neval_strategy: steps\neval_datasets: {a: x}",
        [],
        r"`metric_for_best_model` is 'loss', for `load_best_model_at_end` .* will not report 'eval_loss', only 'eval_a_accuracy'",
    ),
    "no steps between evaluations": ("eval_steps: 0", [], "`eval_steps` is 0; it must be a number above 0"),
    "steps that the recipe's strategy does not use": (
        "save_strategy: epoch",
        ["--save_steps", "2"],
        "`save_steps` has no effect with `save_strategy: epoch`. Add --save_strategy steps, or leave --save_steps out",
    ),
    "steps of evaluations that are off": (
        'eval_strategy: "no"',
        ["--eval_steps=5"],
        "`eval_steps` has no effect with `eval_strategy: no`. Add --eval_strategy steps",
    ),
    "a misspelt key of the tiny base": (
        "seed: 1",
        ["--tiny_base", '{"vocab_sise": 512}'],
        r"`tiny_base` has no key 'vocab_sise', .*Did you mean 'vocab_size'\?",
    ),
    "a key of the tiny base given twice": (
        "seed: 1",
        ["--tiny_base", '{"vocab_size": 512, "vocab_size": 513}'],
        "'vocab_size' is given twice",
    ),
    "a misspelt key of the schedule": (
        "lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: {min_rl: 1.0e-7}",
        [],
        r"has no key 'min_rl' for the schedule 'cosine_with_min_lr', .*Did you mean 'min_lr'\?",
    ),
    "a domain that is missing": ("output_dir: out/{domain}", [], "needs a domain: pass --domain NAME"),
    "a dataset named twice": ("seed: 1", ["--train_datasets", "a=x", "a=y"], "the name 'a' is given twice"),
    "a dataset in broken braces": (
        "seed: 1",
        ["--train_datasets", "a={path: x"],
        "--train_datasets a: .* is not a mapping",
    ),
    "a dataset whose key is given twice": (
        "seed: 1",
        ["--eval_datasets", "a={path: x, path: y}"],
        "'path' is given twice",
    ),
    "a dataset without a space": (
        "seed: 1",
        ["--eval_datasets", "a={path:x}"],
        "'path:x' has no value; write 'KEY: VALUE'",
    ),
    "a dataset flag without a name": ("seed: 1", ["--train_datasets", "data/x"], r"'data/x' is not NAME=SPEC"),
}


@pytest.mark.parametrize("text, flags, message", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_in_a_recipe_stops_the_run_and_is_named(tmp_path, text, flags, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        parse_recipe(path, ["--use_cpu", "true", "--bf16", "false", *flags])


def test_a_recipe_that_is_not_there_is_named():
    with pytest.raises(InputError, match=r"nowhere.yaml cannot be read"):
        parse_recipe("nowhere.yaml", [])


def test_every_path_that_the_readme_names_is_there():
    text = (ROOT / "README.md").read_text()
    named = set(re.findall(r"(?<![\w/])(?:recipes|accelerate_configs|data|benchmarks|\.ci)/[\w./-]*\w", text))
    built = {name for name in named if name.startswith("data/my")}
    missing = [name for name in sorted(named - built) if not (ROOT / name).exists()]
    assert not missing


def test_every_command_that_the_readme_shows_is_one():
    text = (ROOT / "README.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, re.S)
    commands = [
        part.strip()
        for block in blocks
        for line in block.replace("\\\n", " ").splitlines()
        for part in line.split("&&")
    ]
    seen = 0
    for shown in commands:
        words = shlex.split(shown, comments=True)
        if words[:2] == ["accelerate", "launch"]:
            script = next(word for word in words if word.endswith(".py"))
            default = ROOT / "recipes" / "tiny" / Path(script).with_suffix(".yaml").name
            flags = words[words.index(script) + 1 :]
            parse_recipe(
                default,
                ["--bf16", "false", "--use_cpu", "true", *flags, *([] if "--domain" in flags else ["--domain", "x"])],
            )
            seen += 1
        elif words[:2] == ["pip", "install"]:
            assert words[2:4] == ["-c", "constraints.txt"], "an install command without the tested versions"
            seen += 1
        elif words[:1] == ["rm-toolkit"]:
            from rm_toolkit.cli import COMMANDS

            assert words[1] in COMMANDS
            seen += 1
    assert seen >= 5


def test_the_help_says_what_resuming_takes_here(capsys):
    with pytest.raises(SystemExit):
        parse_recipe(ROOT / "recipes/tiny/grft.yaml", ["--help"])
    assert "the newest intact checkpoint of `output_dir`" in " ".join(capsys.readouterr().out.split())
