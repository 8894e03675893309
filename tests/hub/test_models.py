"""`rm-toolkit push` with the real Hub client against a loopback server."""

import json
import re
import shutil
import subprocess
import sys

import pytest
from hub.conftest import MARKER_TOKEN
from hub_server import Repo

from rm_toolkit import RewardScorer
from rm_toolkit.cli import main
from rm_toolkit.errors import InputError
from rm_toolkit.hub import push_model
from rm_toolkit.hub.models import preview_model
from rm_toolkit.merging.merge import merge_models
from rm_toolkit.models.settings import load_settings


# `huggingface_hub` 2.4 uploads large files in a way that its HTTP library deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

PROMPT, COMPLETION = "## Human:\nName a colour.\n\n## Assistant:\n", "Blue."


def test_a_model_is_checked_published_and_verified_as_a_user_does_it(model_folder, hub, child_environment):
    """The only test that runs the command and both reload checks in processes of their own."""
    folder = model_folder()
    command = [sys.executable, "-m", "rm_toolkit.cli", "push", "--model", str(folder), "--repo-id", "tester/my-rm"]
    result = subprocess.run([*command, "--verify"], env=child_environment, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr
    assert f"Pushed to {hub.address}/tester/my-rm/commit/" in result.stdout
    assert "3 texts give the same rewards from a fresh download" in result.stdout
    files = hub.models["tester/my-rm"].files
    assert files["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert files["lm_head/model.safetensors"] == (folder / "lm_head" / "model.safetensors").read_bytes()
    assert {"config.json", "tokenizer.json", "rm_toolkit.json", "README.md"} <= set(files)
    assert not [name for name in files if "checkpoint" in name or name.endswith((".pt", ".bin"))]
    everything = result.stdout + result.stderr + "".join(map(str, files.values()))
    assert MARKER_TOKEN not in everything
    assert "secret-place" not in everything and str(folder.parent) not in "".join(map(str, files.values()))


def test_the_download_gives_the_toolkits_rewards_to_the_cards_own_code(model_folder, hub, fresh_cache, quick_reload):
    folder = model_folder()
    push_model(str(folder), "my-rm")  # in the namespace of the token's owner
    expected = RewardScorer(str(folder)).score([PROMPT], [COMPLETION])[0]
    fresh_cache()
    assert run_code(hub, "tester/my-rm", "### transformers")["reward"] == pytest.approx(expected, abs=1e-6)
    fresh_cache()
    assert run_code(hub, "tester/my-rm", "### rm_toolkit")["rewards"] == pytest.approx([expected], abs=1e-6)
    card = hub.models["tester/my-rm"].files["README.md"].decode()
    assert f"# {expected:.4f}\n" in card


def test_a_chat_model_is_published_with_its_template(model_folder, hub, fresh_cache, quick_reload):
    folder = model_folder("chat")
    push_model(str(folder), "tester/chat-rm")
    messages = [[{"role": "user", "content": "Name a colour."}], [{"role": "assistant", "content": "Blue."}]]
    expected = RewardScorer(str(folder)).score([messages[0]], [messages[1]])[0]
    fresh_cache()
    assert run_code(hub, "tester/chat-rm", "### transformers")["reward"] == pytest.approx(expected, abs=1e-6)
    card = hub.models["tester/chat-rm"].files["README.md"].decode()
    assert 'reward_funcs="tester/chat-rm"' in card and '"add_special_tokens": false' in card


def run_code(hub, repo_id, heading):
    """Runs the first Python block below a heading of the card, as if a reader had copied it."""
    card = hub.models[repo_id].files["README.md"].decode()
    block = re.search(r"```python\n(.*?)```", card.split(heading)[1], re.S)[1]
    names = {}
    exec(block, names)
    return names


def test_a_pooling_that_stock_classes_do_not_read_is_said_and_only_what_works_is_shown(
    model_folder, hub, fresh_cache, quick_reload, capsys
):
    folder = model_folder("max")
    push_model(str(folder), "tester/max-rm")
    card = hub.models["tester/max-rm"].files["README.md"].decode()
    assert "**Loads through rm_toolkit only.**" in card and "library_name: rm_toolkit" in card
    assert "AutoModelForSequenceClassification" not in card and "vllm" not in card and "pipeline_tag" not in card
    assert "loads through rm_toolkit only" in " ".join(capsys.readouterr().out.split())
    expected = RewardScorer(str(folder)).score([PROMPT], [COMPLETION])
    fresh_cache()
    assert run_code(hub, "tester/max-rm", "### rm_toolkit")["rewards"] == pytest.approx(expected, abs=1e-6)


# ---- adapters ----


def test_a_lora_run_is_published_merged(model_folder, hub, fresh_cache, quick_reload, capsys):
    folder = model_folder("adapter")
    push_model(str(folder), "tester/merged")
    files = hub.models["tester/merged"].files
    # Its base is a local folder, so nobody else could use the adapter.
    assert "model.safetensors" in files and not [name for name in files if name.startswith("adapter")]
    assert "`adapter/` is left out" in " ".join(capsys.readouterr().out.split())
    fresh_cache()
    expected = RewardScorer(str(folder)).score([PROMPT], [COMPLETION])[0]
    assert run_code(hub, "tester/merged", "### transformers")["reward"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT 0.21's own
def test_an_adapter_alone_gives_the_same_rewards_on_its_published_base(
    model_folder, base_model, hub, fresh_cache, quick_reload
):
    from huggingface_hub import HfApi

    folder = model_folder("adapter")
    api = HfApi()
    api.create_repo("tester/base")
    api.upload_folder(repo_id="tester/base", folder_path=base_model())
    push_model(str(folder), "tester/adapter", adapter=True, base_model="tester/base", verify=True)
    files = hub.models["tester/adapter"].files
    assert "adapter_model.safetensors" in files and "model.safetensors" not in files
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == "tester/base"
    card = files["README.md"].decode()
    assert "base_model: tester/base" in card and "base_model_relation: adapter" in card and "0.7310" in card
    expected = RewardScorer(str(folder)).score([PROMPT], [COMPLETION])[0]
    fresh_cache()
    assert run_code(hub, "tester/adapter", "### transformers")["reward"] == pytest.approx(expected, abs=1e-5)
    fresh_cache()
    assert run_code(hub, "tester/adapter", "### rm_toolkit")["rewards"] == pytest.approx([expected], abs=1e-5)


def test_an_adapter_on_a_local_base_is_refused(model_folder):
    with pytest.raises(InputError, match=r"base is a folder on this machine.*--base-model"):
        push_model(str(model_folder("adapter")), "tester/x", adapter=True)
    with pytest.raises(InputError, match="has no adapter"):
        push_model(str(model_folder()), "tester/x", adapter=True)
    with pytest.raises(InputError, match=r"has only an adapter.*--adapter"):
        push_model(str(model_folder("adapter") / "adapter"), "tester/x")


@pytest.mark.parametrize("content", ["", "[1]", '{"peft_type": "LORA", "base_model_name_or_path": 7}'])
def test_a_damaged_adapter_config_is_one_line(model_folder, tmp_path, content):
    folder = tmp_path / "model"
    shutil.copytree(model_folder("adapter"), folder)
    (folder / "adapter" / "adapter_config.json").write_text(content)
    for place in (folder, folder / "adapter"):
        with pytest.raises(InputError, match=r"adapter_config\.json.* Save the model again, or restore the file\."):
            preview_model(str(place), "tester/x", str(tmp_path / "preview"), adapter=True)


# ---- refusals ----


def test_a_model_that_reloads_differently_is_not_published(model_folder, hub, quick_reload):
    folder = model_folder()
    for name, old, new in (("config", '"rms_norm_eps": 1e-06', '"rms_norm_eps": 0.5'), ("rm_toolkit", "48", "12")):
        path = folder / f"{name}.json"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match="reload check failed"):
        push_model(str(folder), "tester/my-rm")
    assert not hub.models


def test_a_folder_that_is_no_reward_model_is_refused(tmp_path, model_folder):
    with pytest.raises(InputError, match="is not the folder of a reward model"):
        push_model(str(tmp_path), "tester/my-rm")
    with pytest.raises(InputError, match="no repository is given"):
        push_model(str(model_folder()), None)


def test_a_wrong_token_stops_before_anything_else_and_is_not_shown(model_folder, hub, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong_one")
    assert main(["push", "--model", str(model_folder()), "--repo-id", "tester/my-rm"]) == 2
    message = capsys.readouterr().err
    assert "the Hub refused tester/my-rm (401" in message and "hf auth login" in message
    assert "hf_wrong_one" not in message and "Traceback" not in message
    assert not hub.models


def test_missing_rights_are_told_from_a_wrong_token(model_folder, hub, quick_reload):
    hub.may_write = False
    with pytest.raises(InputError, match=r"refused other/my-rm \(403.*write access"):
        push_model(str(model_folder()), "other/my-rm")


def test_offline_mode_and_an_unreachable_hub_are_told_apart(model_folder, hub, monkeypatch):
    from huggingface_hub import constants

    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(InputError, match="HF_HUB_OFFLINE is set"):
            push_model(str(model_folder()), "tester/my-rm")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    # The second message comes if an earlier command in this process has already limited the client's retries.
    with pytest.raises(
        InputError, match=r"connection to the Hub broke|was not reached: 127\.0\.0\.1:9 cannot be reached"
    ):
        push_model(str(model_folder()), "tester/my-rm")


def test_a_card_that_the_hub_does_not_accept_is_told(model_folder, hub, quick_reload):
    with pytest.raises(InputError, match=r'does not accept the card.*"license" must be one of.*--license'):
        push_model(str(model_folder()), "tester/my-rm", license="nonsense")
    assert "config.json" not in hub.models["tester/my-rm"].files


def test_the_users_own_card_and_the_evaluation_are_published(model_folder, hub, tmp_path, quick_reload):
    folder = model_folder()
    (tmp_path / "evaluation" / "figures").mkdir(parents=True)
    (tmp_path / "evaluation" / "figures" / "margins.png").write_bytes(b"png")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# My own\n")
    push_model(str(folder), "tester/my-rm", evaluation=str(tmp_path / "evaluation"))
    files = hub.models["tester/my-rm"].files
    assert files["README.md"].endswith(b"# My own\n") and files["evaluation/figures/margins.png"] == b"png"
    (folder / "README.md").unlink()
    push_model(str(folder), "tester/my-rm", evaluation=str(tmp_path / "evaluation"))
    assert b"![Margins](evaluation/figures/margins.png)" in hub.models["tester/my-rm"].files["README.md"]


def test_a_users_card_of_a_model_that_stock_classes_misread_must_say_so(model_folder, hub, quick_reload):
    folder = model_folder("max")
    (folder / "README.md").write_text("# My own\n")
    with pytest.raises(InputError, match="does not say that this model loads through rm_toolkit only"):
        push_model(str(folder), "tester/my-rm")
    assert not hub.models


def test_a_token_in_a_file_is_not_published(model_folder, hub, quick_reload):
    folder = model_folder()
    (folder / "README.md").write_text(f"my token: {MARKER_TOKEN}")
    with pytest.raises(InputError, match=r"README\.md contains your token") as caught:
        push_model(str(folder), "tester/my-rm")
    assert MARKER_TOKEN not in str(caught.value) and not hub.models


# ---- again ----


def test_after_a_cut_the_same_command_sends_only_what_is_missing(model_folder, hub, quick_reload):
    folder = model_folder()
    hub.uploads_before_cut = 1
    with pytest.raises(InputError, match="Run the same command again"):
        push_model(str(folder), "tester/my-rm")
    assert len(hub.uploaded()) == 1 and "model.safetensors" not in hub.models["tester/my-rm"].files
    hub.uploads_before_cut = None
    push_model(str(folder), "tester/my-rm")
    sent = hub.uploaded()
    assert len(sent) == 2 == len(set(sent))  # reward model and LM head, once each
    assert hub.models["tester/my-rm"].files["model.safetensors"] == (folder / "model.safetensors").read_bytes()


def test_a_broken_transfer_by_xet_is_as_clear(model_folder, hub, quick_reload, monkeypatch):
    """Users have Xet by default. This server does not support it, so every transfer breaks."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    with pytest.raises(InputError, match=r"connection to the Hub broke.*Run the same command again") as caught:
        push_model(str(model_folder()), "tester/my-rm")
    assert MARKER_TOKEN not in str(caught.value)
    assert ("GET", "/api/models/tester/my-rm/xet-write-token/main") in hub.requests


def test_a_second_push_sends_nothing_and_makes_no_commit(model_folder, hub, quick_reload):
    folder = model_folder()
    push_model(str(folder), "tester/my-rm")
    before = len(hub.models["tester/my-rm"].commits), len(hub.uploaded())
    push_model(str(folder), "tester/my-rm")
    assert (len(hub.models["tester/my-rm"].commits), len(hub.uploaded())) == before


def test_a_later_push_removes_its_own_stale_files_and_nobody_elses(model_folder, hub, quick_reload):
    folder = model_folder()
    (folder / "extra.json").write_text("{}")
    push_model(str(folder), "tester/my-rm")
    repo = hub.models["tester/my-rm"]
    repo.commit("main", {**repo.files, "notes/by-hand.md": b"mine"}, "by hand")
    (folder / "extra.json").unlink()
    push_model(str(folder), "tester/my-rm")
    assert "extra.json" not in repo.files and repo.files["notes/by-hand.md"] == b"mine"
    assert ".gitattributes" in repo.files


def test_weights_of_somebody_else_are_neither_mixed_nor_removed(model_folder, hub, quick_reload):
    repo = hub.models["tester/my-rm"] = Repo()
    repo.commit("main", {**repo.files, "model-00001-of-00002.safetensors": b"other"}, "by hand")
    with pytest.raises(InputError, match=r"has 'model-00001-of-00002\.safetensors'.*did not push"):
        push_model(str(model_folder()), "tester/my-rm")
    assert repo.files["model-00001-of-00002.safetensors"] == b"other" and "config.json" not in repo.files


def test_a_card_that_was_changed_by_hand_stays(model_folder, hub, quick_reload, capsys):
    folder = model_folder()
    push_model(str(folder), "tester/my-rm")
    repo = hub.models["tester/my-rm"]
    ours = repo.files["README.md"]
    repo.commit("main", {**repo.files, "README.md": ours + b"\nMy own words.\n"}, "by hand")
    push_model(str(folder), "tester/my-rm", message="again")
    assert repo.files["README.md"].endswith(b"My own words.\n")
    assert "changed by hand and is kept" in " ".join(capsys.readouterr().out.split())
    push_model(str(folder), "tester/my-rm", overwrite_card=True)
    assert repo.files["README.md"] == ours


def test_a_private_repository_and_a_branch_are_made(model_folder, hub, quick_reload):
    folder = str(model_folder())
    push_model(folder, "tester/hidden", private=True, revision="v2")
    repo = hub.models["tester/hidden"]
    assert repo.private and "model.safetensors" not in repo.files
    assert "model.safetensors" in repo.commits[repo.branches["v2"]]
    push_model(folder, "tester/open")
    with pytest.raises(InputError, match="exists already and is public, but --private was given"):
        push_model(folder, "tester/open", private=True)


def test_a_download_that_differs_is_said(model_folder, hub, quick_reload, monkeypatch):
    from rm_toolkit.hub.repository import Repository

    folder, other = model_folder(), model_folder("adapter")
    monkeypatch.setattr(Repository, "download", lambda self, commit, cache: str(other))
    with pytest.raises(InputError, match=r"tester/my-rm was published, but .* differs"):
        push_model(str(folder), "tester/my-rm", verify=True)


def test_a_preview_sends_nothing(model_folder, tmp_path, quick_reload, capsys):
    folder = model_folder()
    output = tmp_path / "preview"
    command = ["push", "--model", str(folder), "--repo-id", "tester/my-rm", "--preview", str(output)]
    assert main(command) == 0
    assert (output / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert "secret-place" not in (output / "README.md").read_text() + (output / "rm_toolkit.json").read_text()
    assert main(command) == 2 and "it exists already" in capsys.readouterr().err


def test_a_merged_model_is_published_with_both_lineages_and_no_place_of_this_machine(
    model_folder, tmp_path, quick_reload
):
    """Its lineage has both folders and the data of the general model; the licences of all of them count."""
    general, customized = model_folder("text"), tmp_path / "models" / "law"
    shutil.copytree(general, customized)
    settings = load_settings(str(general))
    settings.lineage[0]["datasets"] = {
        "scored": {"rows": 3, "spec": {"path": str(tmp_path / "g.json")}, "sources": ["gpt4llm"]}
    }
    settings.save(general)
    settings.lineage[0]["datasets"] = {"talks": {"rows": 3, "spec": str(tmp_path / "h.json"), "sources": ["hh"]}}
    settings.lineage = settings.lineage[:1]
    settings.save(customized)
    merge_models(general, [customized], [0.25], tmp_path / "merged", show_progress=False)
    (tmp_path / "merged" / "anchor_rewards").mkdir()
    (tmp_path / "merged" / "anchor_rewards" / "data.arrow").touch()
    preview_model(str(tmp_path / "merged"), "tester/merged", str(tmp_path / "preview"))
    names = {path.relative_to(tmp_path / "preview").as_posix() for path in (tmp_path / "preview").rglob("*")}
    assert "rm_toolkit.json" in names and not [name for name in names if name.startswith(("merge", "anchor"))]
    for path in (tmp_path / "preview").glob("*.[jm][sd]*"):
        assert str(tmp_path) not in path.read_text(encoding="utf-8"), path.name
    card = (tmp_path / "preview" / "README.md").read_text(encoding="utf-8")
    assert "Weights of `text` (general) and `law` (0.25)" in card and "lineage" not in card
    assert "| rows of the format `gpt4llm` |" in card and "| rows of the format `hh` |" in card
