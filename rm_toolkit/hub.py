"""A trained reward model -> the Hugging Face Hub, after a reload check."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard, ModelCardData
from huggingface_hub.errors import HfHubHTTPError

from .adapters import is_adapter
from .checkpoint import FINAL_RESULTS_NAME, check_texts
from .console import console
from .errors import InputError
from .redaction import redact
from .reload_check import check_reload
from .scoring import RewardScorer
from .settings import RewardModelSettings, load_settings, not_stock_notice


# Training state stays at home: it is large, and optimizer and RNG files are pickles.
NOT_PUBLISHED = ["checkpoint-*/**", ".saving-*/**", ".removing-*/**", "runs/**", "*.bin", "*.pt", "*.pth", "*.tmp"]

CARD = """# {title}

A reward model trained with [rm_toolkit](https://github.com/rm-toolkit/rm-toolkit){lineage}. It gives one raw reward
(a logit, not a probability) to a text: the higher, the more the text is preferred.

{results}
## Use

{use}

Input: {data_format} data, at most {max_length} tokens, cut on the left; the reward is read by `{pooling_type}` pooling.
"""

USE_STOCK = """```python
from transformers import AutoModelForSequenceClassification, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("{repo_id}")
model = AutoModelForSequenceClassification.from_pretrained("{repo_id}")
inputs = tokenizer({example!r}, truncation=True, return_tensors="pt")
reward = model(**inputs).logits[0, 0].item()
```"""

USE_RM_TOOLKIT = """{notice}

```python
from rm_toolkit import RewardScorer

scorer = RewardScorer("{repo_id}")
rewards = scorer.score(["## Human:\\nName a colour.\\n\\n## Assistant:\\n"], ["Blue."])
```"""


def push_model(
    folder: str,
    repo_id: str | None,
    *,
    private: bool | None = None,
    token: str | None = None,
    message: str | None = None,
) -> str:
    """
    Checks that the folder reloads with the same rewards, writes its card, and uploads it.

    Args:
        folder (`str`): A saved reward model.
        repo_id (`str`): `NAMESPACE/NAME` or `NAME`.
        private (`bool`, *optional*): Visibility of a new repository.
        token (`str`, *optional*): Defaults to the one stored by `hf auth login`; it is never printed or saved.
        message (`str`, *optional*): Commit message.

    Returns:
        `str`: Address of the commit.

    Raises:
        `InputError`: if the folder is no reward model, fails the reload check, or the Hub refuses.
    """
    if Path(folder).is_dir() and is_adapter(folder):
        raise InputError(
            f"{folder} holds an adapter alone, which stock classes do not open as a reward model. Push the run's folder: "
            "it holds the merged model, and the adapter in `adapter/`."
        )
    settings = load_settings(folder) if Path(folder).is_dir() else None
    if settings is None or not Path(folder, "config.json").exists():
        raise InputError(
            f"{folder} is no folder of a reward model saved by rm_toolkit (`rm_toolkit.json`, `config.json`)."
        )
    if not repo_id:
        raise InputError("no repository is named; give --repo-id NAMESPACE/NAME (`hub_model_id` in a recipe).")
    if not settings.stock:
        check_card_says_so(folder)
        console.print(f"{folder}: {not_stock_notice(settings.pooling_type)} Its card says so.", highlight=False)
    verify_folder(folder, settings)
    api = HfApi(token=token)
    try:
        name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if not Path(folder, "README.md").exists():
            write_card(folder, name, settings)
        commit = api.upload_folder(
            repo_id=name,
            folder_path=folder,
            ignore_patterns=NOT_PUBLISHED,
            commit_message=message or f"Upload reward model ({settings.stage or 'rm_toolkit'})",
        )
    except (HfHubHTTPError, ConnectionError, ValueError) as error:
        raise InputError(
            f"the Hub refused {repo_id}: {str(error).strip().splitlines()[0]} Log in with `hf auth login`, check that the "
            "token may write there, and run the command again."
        ) from error
    return str(commit.commit_url)


def verify_folder(folder: str, settings: RewardModelSettings) -> int:
    """
    Compares the toolkit's rewards with those of stock classes in a fresh process, on texts of several lengths.

    Returns:
        `int`: Number of texts compared.

    Raises:
        `InputError`: if one differs.
    """
    samples: list[tuple[Any, Any]] = [
        ("## Human:\nName a colour.\n\n## Assistant:\n", "Blue."),
        (
            "## Human:\nWhat is a reward model?\n\n## Assistant:\n",
            "A model that says how much a text is preferred.\n\nÉ ✓",
        ),
    ]
    if settings.data_format == "chat":
        samples = [
            ([{"role": "user", "content": "Name a colour."}], [{"role": "assistant", "content": "Blue."}]),
            ([{"role": "user", "content": "What is 2 + 2?"}], [{"role": "assistant", "content": "4\n\nÉ ✓"}]),
        ]
    texts = check_texts(samples, settings.max_length)
    rewards = RewardScorer(folder, device="cpu").score([p for p, _ in texts], [c for _, c in texts])
    check_reload(folder, [prompt + completion for prompt, completion in texts], rewards)
    return len(texts)


def check_card_says_so(folder: str) -> None:
    """
    Refuses to publish a model that stock classes read wrongly under a card that does not say so.

    Raises:
        `InputError`: naming what to write into the card.
    """
    card = Path(folder, "README.md")
    if card.exists() and "rm_toolkit only" not in card.read_text(encoding="utf-8"):
        raise InputError(
            f"{card} does not say that this model loads through rm_toolkit only; whoever opens it with stock classes "
            "gets other numbers. Write 'loads through rm_toolkit only' into it, or remove it to have one written."
        )


def write_card(folder: str, repo_id: str, settings: RewardModelSettings) -> None:
    """
    Writes the model card (`README.md`) from what the run recorded.

    Args:
        folder (`str`): A saved reward model.
        repo_id (`str`): Its name on the Hub.
        settings (`RewardModelSettings`): Its settings.
    """
    results_file = Path(folder, FINAL_RESULTS_NAME)
    results = json.loads(results_file.read_text(encoding="utf-8"))["end"] if results_file.exists() else {}
    rows = [f"| {name} | {values['accuracy']:.4f} | {values['num_pairs']} |" for name, values in results.items()]
    table = "\n".join(["| test set | accuracy | pairs |", "|---|---|---|", *rows, ""]) if rows else ""
    stages = " -> ".join(
        entry["stage"] + (f" ({entry['domain']})" if entry.get("domain") else "") for entry in settings.lineage
    )
    base = next((entry["base"] for entry in settings.lineage), None)
    data = ModelCardData(
        library_name="transformers" if settings.stock else "rm_toolkit",
        pipeline_tag="text-classification" if settings.stock else None,
        tags=["rm-toolkit", "trl", "reward-model"],
        base_model=base if base and not Path(base).exists() else None,
    )
    use = USE_STOCK if settings.stock else USE_RM_TOOLKIT
    content = CARD.format(
        title=repo_id.split("/")[-1],
        lineage=f": {stages}" if stages else "",
        results=table,
        use=use.format(
            repo_id=repo_id,
            example="## Human:\nName a colour.\n\n## Assistant:\nBlue.",
            notice=not_stock_notice(settings.pooling_type),
        ),
        data_format=settings.data_format,
        max_length=settings.max_length,
        pooling_type=settings.pooling_type,
    )
    ModelCard(redact(f"---\n{data.to_yaml()}\n---\n\n{content}")).save(Path(folder, "README.md"))
