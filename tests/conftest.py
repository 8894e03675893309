"""Tiny tokenizers, models and rows that the tests share. Nothing is downloaded, and everything uses one core."""

from __future__ import annotations

import os


# Set before torch is imported. For models of this size, two threads on two shared cores are slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Waiting threads yield the core, because launched runs have threads of their own and share it with other tests.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings


# The same cases in every run, so that a failure comes from a change. HYPOTHESIS_PROFILE=default searches for new ones.
settings.register_profile("steady", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "steady"))


HIDDEN_SIZE = 16
MAX_LENGTH = 48
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' "
    "+ '\\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
WORDS = ["river", "stone", "lantern", "window", "garden", "letter", "morning", "copper", "market", "shadow", "bridge"]
WORDS += [
    "violin",
    "orange",
    "winter",
    "harbour",
    "pencil",
    "forest",
    "silver",
    "candle",
    "basket",
    "thunder",
    "ladder",
]


def pytest_configure(config: pytest.Config) -> None:
    """Gives files to the workers in the order set below; by default, xdist begins with those that have most tests."""
    config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts tests that launch processes first: they take longest, and at the end only one worker would be busy."""
    items.sort(key=lambda item: item.get_closest_marker("launch") is None)


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """
    Keeps recipes that run inside the test process on one thread.

    With more, OpenMP would start threads there, and a process forked for a later test would wait for them forever.
    """
    from rm_toolkit.training import runtime

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "use_all_cores", lambda cpu_threads: None)
        yield


def sentence(rng: random.Random, shortest: int = 2, longest: int = 14) -> str:
    """Random words, with a capital at the beginning and a full stop at the end."""
    return " ".join(rng.choices(WORDS, k=rng.randint(shortest, longest))).capitalize() + "."


def pair_rows(num_rows: int, seed: int = 0, **columns: Callable[[int], Any]) -> list[dict[str, Any]]:
    """Pairs of unequal length, each with its own prompt; a function in `columns` gives a value for each row number."""
    rng = random.Random(seed)
    rows = []
    for number in range(num_rows):
        row = {
            "prompt": f"## Human:\n{sentence(rng)} {number}\n\n## Assistant:\n",
            "chosen": sentence(rng),
            "rejected": sentence(rng) + " No.",
        }
        rows.append({**row, **{name: value(number) for name, value in columns.items()}})
    return rows


def ranked_rows(num_rows: int, seed: int = 0, sizes: tuple[int, ...] = (3, 5, 4, 2)) -> list[dict[str, Any]]:
    """Ranked rows with K responses, K from `sizes` in turn. Every row with K > 2 has a tie."""
    rng = random.Random(seed)
    rows = []
    for number in range(num_rows):
        size = sizes[number % len(sizes)]
        scores = [float(k) for k in range(size)]
        if size > 2:
            scores[1] = scores[0]
        rng.shuffle(scores)
        completions = [f"{sentence(rng)} {k}" for k in range(size)]
        prompt = f"## Human:\n{sentence(rng)} {number}\n\n## Assistant:\n"
        rows.append({"prompt": prompt, "completions": completions, "scores": scores})
    return rows


def train_byte_level_tokenizer(folder: Path) -> None:
    """A byte-level BPE without BOS, like Qwen's: EOS ends a turn, padding is `<|endoftext|>`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=360,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    rng = random.Random(7)
    tokenizer.train_from_iterator([sentence(rng) for _ in range(300)], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
    )
    fast.chat_template = CHATML
    fast.save_pretrained(folder)


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """`base_model("llama" | "qwen3", …)`: folder of a random causal LM with its tokenizer, built once."""
    built: dict[Any, str] = {}

    def get(architecture: str = "llama", *, tied: bool = False, hidden_size: int = HIDDEN_SIZE) -> str:
        key = (architecture, tied, hidden_size)
        if key in built:
            return built[key]
        from transformers import AutoTokenizer

        from rm_toolkit.testing import build_tiny_model, train_tokenizer

        folder = tmp_path_factory.mktemp(f"{architecture}-{'tied' if tied else 'untied'}")
        if architecture == "llama":
            rng = random.Random(7)
            texts = [f"## Human:\n{sentence(rng)}\n\n## Assistant:\n{sentence(rng)}" for _ in range(300)]
            train_tokenizer(texts, folder, vocab_size=420)
            special = {}
        else:
            train_byte_level_tokenizer(folder)
            special = {"bos_token_id": None, "eos_token_id": 2}
        build_tiny_model(
            folder,
            len(AutoTokenizer.from_pretrained(folder)),
            architecture=architecture,
            hidden_size=hidden_size,
            num_heads=2,
            tie_word_embeddings=tied,
            initializer_range=0.2,  # so that different texts get clearly different rewards
            **special,
        )
        built[key] = str(folder)
        return built[key]

    return get


def save_word_piece_tokenizer(folder: Path) -> None:
    """A tokenizer like BERT's: [CLS] and [SEP] around a text, no BOS, EOS or chat template; whole words or letters."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *"abcdefghijklmnopqrstuvwxyz.#:0123456789"]
    vocabulary += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz0123456789"]
    backend = Tokenizer(models.WordPiece({token: k for k, token in enumerate(vocabulary)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(folder)


def build_encoder(architecture: str, folder: Path) -> None:
    """A random encoder without a head; its weights vary enough for different texts to get different rewards."""
    import torch
    import transformers

    size = {"hidden_size": HIDDEN_SIZE, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    more = {
        "bert": {"initializer_range": 0.3, "max_position_embeddings": 256},
        "roberta": {"initializer_range": 0.3, "max_position_embeddings": 258, "pad_token_id": 0},
        "modernbert": {
            "num_hidden_layers": 3,
            "initializer_range": 0.3,
            "local_attention": 8,
            "pad_token_id": 0,
            "cls_token_id": 2,
            "sep_token_id": 3,
            "bos_token_id": None,
            "eos_token_id": None,
            "classifier_pooling": "mean",  # as in the published models
        },
    }[architecture]
    name = {"bert": "Bert", "roberta": "Roberta", "modernbert": "ModernBert"}[architecture]
    config = getattr(transformers, f"{name}Config")(vocab_size=128, **{**size, **more})
    torch.manual_seed(0)
    getattr(transformers, f"{name}Model")(config).save_pretrained(folder)
    save_word_piece_tokenizer(folder)


@pytest.fixture(scope="session")
def base_encoder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """`base_encoder("bert" | "roberta" | "modernbert")`: folder of a random encoder with its tokenizer, built once."""
    built: dict[str, str] = {}

    def get(architecture: str = "bert") -> str:
        if architecture not in built:
            folder = tmp_path_factory.mktemp(architecture)
            build_encoder(architecture, folder)
            built[architecture] = str(folder)
        return built[architecture]

    return get


@pytest.fixture
def make_trainer(base_model: Callable[..., str], tmp_path: Path) -> Callable[..., Any]:
    """
    `make_trainer(rows, model=None, eval_rows=None, peft_config=None, require_head=False, **config)`: a quiet CPU
    trainer in fp32, on the tiny Llama unless a model is given.
    """

    def make(
        rows: Any,
        model: Any = None,
        *,
        eval_rows: Any = None,
        peft_config: Any = None,
        require_head: bool = False,
        processing_class: Any = None,
        callbacks: Any = None,
        replay_dataset: Any = None,
        settings: Any = None,
        **config: Any,
    ) -> Any:
        from datasets import Dataset

        from rm_toolkit.training.config import RewardModelConfig
        from rm_toolkit.training.trainer import RewardModelTrainer

        def dataset(values: Any) -> Any:
            if isinstance(values, dict):
                return {name: dataset(value) for name, value in values.items()}
            return Dataset.from_list(values) if isinstance(values, list) else values

        defaults = {
            "output_dir": str(tmp_path / "run"),
            "use_cpu": True,
            "gradient_checkpointing": False,
            "report_to": "none",
            "disable_tqdm": True,
            "save_strategy": "no",
            "logging_steps": 1,
            "max_length": MAX_LENGTH,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "constant",
        }
        return RewardModelTrainer(
            model or base_model(),
            RewardModelConfig(**{**defaults, **config}),
            dataset(rows),
            dataset(eval_rows),
            processing_class=processing_class,
            peft_config=peft_config,
            require_head=require_head,
            callbacks=callbacks,
            replay_dataset=replay_dataset,
            settings=settings,
        )

    return make


@pytest.fixture(scope="session")
def reward_model(base_model: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """`reward_model("llama", data_format="text", **settings)`: folder of a random reward model, built once."""
    built: dict[Any, str] = {}

    def get(architecture: str = "llama", **settings: Any) -> str:
        key = (architecture, *sorted(settings.items()))
        if key not in built:
            from rm_toolkit.models.reward_model import RewardModel
            from rm_toolkit.models.saving import save_reward_model
            from rm_toolkit.models.settings import RewardModelSettings
            from rm_toolkit.models.tokenizer import load_tokenizer, prepare_tokenizer

            base = base_model(architecture)
            read = RewardModelSettings(**{"max_length": 128, **settings})
            model = RewardModel.from_pretrained(base, read)
            how = {name: getattr(read, name) for name in ("max_length", "pooling_type", "data_format")}
            tokenizer = prepare_tokenizer(load_tokenizer(base), model.config, **how)
            model.resize_token_embeddings(len(tokenizer))
            folder = tmp_path_factory.mktemp(f"{architecture}-rm")
            save_reward_model(model, folder, tokenizer)
            built[key] = str(folder)
        return built[key]

    return get


@pytest.fixture(scope="session")
def rows() -> Any:
    """Makes rows: `rows.pairs(number, seed, column=function)` and `rows.ranked(number, seed, sizes)`."""

    class Rows:
        pairs = staticmethod(pair_rows)
        ranked = staticmethod(ranked_rows)

    return Rows


@pytest.fixture(scope="session")
def step_gradients() -> Callable[..., tuple[float, dict[str, Any]]]:
    """`step_gradients(trainer)`: loss of the first optimizer step, and the gradient of every parameter by name."""

    def compute(trainer: Any) -> tuple[float, dict[str, Any]]:
        step = next(iter(trainer.get_train_dataloader()))
        trainer.model.zero_grad()
        loss = trainer.training_step(trainer.model, step)
        return loss.item(), {
            name: parameter.grad.clone()
            for name, parameter in trainer.model.named_parameters()
            if parameter.grad is not None
        }

    return compute


@pytest.fixture(scope="session")
def assert_same_gradients() -> Callable[..., None]:
    """`assert_same_gradients(found, expected, tolerance=1e-5)`: the same names, and values within the tolerance."""

    def check(found: dict[str, Any], expected: dict[str, Any], tolerance: float = 1e-5) -> None:
        assert found.keys() == expected.keys()
        assert any(value.abs().max() > 100 * tolerance for value in expected.values()), "no gradient to compare"
        for name, value in expected.items():
            difference = (found[name] - value).abs().max().item()
            assert difference <= tolerance, f"{name}: gradients differ by {difference:.2e}"

    return check


@pytest.fixture(scope="session")
def read_json() -> Callable[[Any], Any]:
    """`read_json(path)`."""
    return lambda path: json.loads(Path(path).read_text(encoding="utf-8"))
