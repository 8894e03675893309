"""A trained reward model -> the Hub, after a reload check; merged, or only its adapter."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..models.adapter_files import is_adapter, tokenizer_source
from ..models.files import ADAPTER_CONFIG, ADAPTER_FOLDER, FIGURE_FOLDER
from ..models.settings import RewardModelSettings, load_settings, not_stock_notice
from ..models.tokenizer import load_tokenizer
from ..output.console import console
from ..output.temporary import scratch_folder
from ..scoring.example import ScoredExample, example_text, write_example
from ..scoring.reload_check import check_reload, check_texts
from ..scoring.scorer import RewardScorer
from .evaluation_files import stage_evaluation
from .model_card import CardOptions, Example, model_card
from .pushing import Push, check_preview, upload, write_preview
from .repository import CARD_NAME, Repository
from .staging import adapter_base, describe_staying, stage_model


@dataclass
class ModelPush(Push):
    """
    Options for publishing a model.

    Args:
        adapter (`bool`): Publish only the adapter instead of the merged model; `folder` may be that of either.
        base_model (`str`, *optional*): Hub id of the adapter's base (also `ID@REVISION`), if the adapter was trained
            on a folder.
        evaluation (`str`, *optional*): Folder of `rm-toolkit evaluate`, whose report and figures are published too.
        publish_texts (`bool`): Whether to publish the page and the pairs of the evaluation too, with all texts.
    """

    adapter: bool = False
    base_model: str | None = None
    evaluation: str | None = None
    publish_texts: bool = False


def push_model(folder: str, repo_id: str | None, **options: Any) -> str:
    """
    Checks that the folder reloads with the same rewards, writes its card, and uploads both.

    Args:
        folder (`str`): A saved reward model.
        repo_id (`str`): `NAMESPACE/NAME` or `NAME`.
        **options: See [`ModelPush`] and [`~rm_toolkit.hub.pushing.Push`].

    Returns:
        `str`: Address of the commit.

    Raises:
        `InputError`: if the folder is not a reward model, fails the reload check, or the Hub refuses.
    """
    push = ModelPush(folder, repo_id, **options)
    source, settings = find_model(push)
    repository = push.repository()
    message = f"Upload reward model ({settings.stage or 'rm_toolkit'})"
    with prepared(push, source, settings, repository.repo_id) as (staged, texts, rewards):
        commit = upload(
            push, repository, staged, message, lambda card: keep_card(staged, repository.repo_id, card, settings)
        )
        if push.verify:
            verify_download(repository, commit.oid, texts, rewards)
    return str(commit.commit_url)


def preview_model(folder: str, repo_id: str, output: str, **options: Any) -> None:
    """
    Writes what would be published, card included, into a folder; nothing is sent.

    Args:
        folder, repo_id, **options: As in [`push_model`].
        output (`str`): A folder that does not exist yet.
    """
    push = ModelPush(folder, repo_id, **options)
    source, settings = find_model(push)
    check_preview(output)
    with prepared(push, source, settings, repo_id) as (staged, _, _):
        write_preview(push, staged, output)


def find_model(push: ModelPush) -> tuple[str, RewardModelSettings]:
    """
    Finds the folder to publish: the model, or the adapter in it.

    Raises:
        `InputError`: if it is not the expected kind of folder.
    """
    folder = push.folder
    is_folder = Path(folder).is_dir()
    if push.adapter and is_folder and not is_adapter(folder):
        if not Path(folder, ADAPTER_FOLDER, ADAPTER_CONFIG).exists():
            raise InputError(
                f"{folder} has no adapter: there is no `{ADAPTER_CONFIG}`, here or in `{ADAPTER_FOLDER}/`. If all "
                "weights were trained, push it without --adapter; otherwise restore the file."
            )
        folder = str(Path(folder, ADAPTER_FOLDER))
    elif is_folder and is_adapter(folder) and not push.adapter:
        raise InputError(
            f"{folder} has only an adapter, which stock classes cannot load as a reward model. Push the run's folder: "
            "it has the merged model, and the adapter in `adapter/`. Or pass --adapter to publish the adapter."
        )
    settings = load_settings(folder) if is_folder else None
    if settings is None or not (push.adapter or Path(folder, "config.json").exists()):
        raise InputError(
            f"{folder} is not the folder of a reward model saved by rm_toolkit (`rm_toolkit.json`, `config.json`)."
        )
    if push.adapter and adapter_base(Path(folder), push.base_model) is None:
        raise InputError(
            f"{folder}: the adapter's base is a folder on this machine, which others do not have. Publish the base first "
            "and name it with --base-model NAMESPACE/NAME, or push the merged model (without --adapter)."
        )
    return folder, settings


@contextlib.contextmanager
def prepared(
    push: ModelPush, source: str, settings: RewardModelSettings, repo_id: str
) -> Iterator[tuple[Path, list[Any], list[float]]]:
    """
    Checks the model and prepares the published files, card included, in a temporary folder.

    Yields:
        `tuple`: That folder, the texts of the reload check, and their rewards.
    """
    if not settings.stock:
        console.print(f"{source}: {not_stock_notice(settings.pooling_type)} The card says so.")
    texts, rewards, example = verify_folder(source, settings)
    with scratch_folder() as temporary:
        staged = Path(temporary, "model")
        staged.mkdir()
        done = stage_model(source, staged, settings, push.base_model)
        write_example(staged, ScoredExample(example.prompt, example.completion, example.reward))
        if done.staying:
            console.print(describe_staying(source, done.staying))
        if done.left_out:
            console.print(
                f"{source}: `{ADAPTER_FOLDER}/` is left out, because its base is a folder on this machine. The merged "
                "model is complete; --base-model NAMESPACE/NAME includes the adapter.",
            )
        options = CardOptions(license=push.license)
        if push.adapter:
            options.adapter_base = adapter_base(Path(source), push.base_model)
        if push.evaluation is not None:
            options.figures = stage_evaluation(push.evaluation, staged, publish_texts=push.publish_texts)
            options.report = f"{FIGURE_FOLDER}/report.md" if (staged / FIGURE_FOLDER / "report.md").exists() else None
        if (staged / CARD_NAME).exists():  # the user's own
            check_card_says_so(staged / CARD_NAME, settings)
        else:
            # The results of a run with adapters are with the merged model.
            model_card(push.folder, repo_id, settings, example, options).save(staged / CARD_NAME)
        yield staged, texts, rewards


def verify_folder(folder: str, settings: RewardModelSettings) -> tuple[list[Any], list[float], Example]:
    """
    Compares the toolkit's rewards with those of stock classes in a fresh process, on texts of several lengths.

    Returns:
        `tuple`: The texts, their rewards, and the first of them as an example for the card.

    Raises:
        `InputError`: if one differs.
    """
    second: tuple[Any, Any] = (
        "## Human:\nWhat is a reward model?\n\n## Assistant:\n",
        "A model that says how much a text is preferred.\n\nÉ ✓",
    )
    if settings.data_format == "chat":
        second = [{"role": "user", "content": "What is 2 + 2?"}], [{"role": "assistant", "content": "4\n\nÉ ✓"}]
    samples = [example_text(settings.data_format), second]
    pairs = check_texts(samples, settings.max_length)
    rewards = RewardScorer(folder, device="cpu").score([p for p, _ in pairs], [c for _, c in pairs])
    texts = [prompt + completion for prompt, completion in pairs]
    check_reload(folder, texts, rewards, offline=not is_adapter(folder))
    return texts, rewards, make_example(folder, settings, pairs[0], rewards[0])


def make_example(folder: str, settings: RewardModelSettings, pair: tuple[Any, Any], reward: float) -> Example:
    """Returns the string and the token ids of one text, from the saved tokenizer."""
    source, revision = tokenizer_source(folder)
    tokenizer = load_tokenizer(source, revision=revision)
    whole = pair[0] + pair[1]
    if settings.data_format == "chat":
        text = tokenizer.apply_chat_template(whole, tokenize=False)
        ids = tokenizer.apply_chat_template(whole, tokenize=True, truncation=True, return_dict=True)["input_ids"]
    else:
        text, ids = whole, tokenizer(whole, truncation=True)["input_ids"]
    return Example(pair[0], pair[1], text, list(ids), reward)


def check_card_says_so(card: Path, settings: RewardModelSettings) -> None:
    """
    Refuses to publish a model that stock classes read incorrectly, if its card does not say so.

    Raises:
        `InputError`: with the words to add to the card.
    """
    if not settings.stock and "rm_toolkit only" not in card.read_text(encoding="utf-8"):
        raise InputError(
            f"{CARD_NAME} of the model does not say that this model loads through rm_toolkit only; with "
            "stock classes it gives other numbers. Write 'loads through rm_toolkit only' into it, or remove it to have one "
            "written."
        )


def keep_card(staged: Path, repo_id: str, kept: str, settings: RewardModelSettings) -> None:
    """Keeps a card on the Hub that a person wrote or changed, and prints this."""
    (staged / CARD_NAME).unlink()
    (staged / CARD_NAME).write_text(kept, encoding="utf-8")
    check_card_says_so(staged / CARD_NAME, settings)
    (staged / CARD_NAME).unlink()
    console.print(
        f"{repo_id}: the card there was written or changed by hand and is kept; --overwrite-card replaces it.",
    )


def verify_download(repository: Repository, commit: str, texts: list[Any], rewards: list[float]) -> None:
    """
    Downloads the published model into an empty cache and compares its rewards in a fresh process.

    Raises:
        `InputError`: if one differs.
    """
    with scratch_folder() as cache:
        downloaded = repository.download(commit, str(cache))
        try:
            check_reload(downloaded, texts, rewards, offline=not is_adapter(downloaded))
        except InputError as error:
            raise InputError(
                f"{repository.repo_id} was published, but a fresh download differs from the local model; do not "
                f"announce it. {error}"
            ) from error
    console.print(f"{repository.repo_id}: {len(texts)} texts give the same rewards from a fresh download.")
