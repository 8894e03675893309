"""What is published of a folder: the files in the table, no links that lead outside, no local paths."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest

from rm_toolkit.cli import main
from rm_toolkit.errors import InputError
from rm_toolkit.hub import push_model
from rm_toolkit.hub.evaluation_files import stage_evaluation
from rm_toolkit.hub.models import preview_model
from rm_toolkit.hub.places import check_no_places, shorten_paths
from rm_toolkit.hub.pushing import Push, write_preview
from rm_toolkit.hub.staging import code_files, describe_staying, public_settings, stage_model
from rm_toolkit.models.files import MODEL_FILES
from rm_toolkit.models.settings import RewardModelSettings, load_settings
from rm_toolkit.output.page import content
from rm_toolkit.output.page.document import write_document


pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def stage(tmp_path):
    """`stage(folder, base_model=None)`: the files to publish, by name, and those that are left out."""

    def go(folder, base_model=None):
        target = tmp_path / f"staged-{len(list(tmp_path.glob('staged-*')))}"
        target.mkdir()
        done = stage_model(str(folder), target, RewardModelSettings(), base_model)
        return {path.relative_to(target).as_posix(): path for path in target.rglob("*") if path.is_file()}, done

    return go


STRAY = (
    ".env", "notes.txt", "passwords.json", "model-old.safetensors", "other.safetensors", "consolidated.safetensors",
    "data/rows.jsonl", "lm_head/mine.txt", "adapter/notes.txt", "pytorch_model.bin", "train.py", "photo.png",
    "evaluation/metrics.json", "trainer_state.json", "manifest.json", "merge.json", ".rm_toolkit_push.json",
    "checkpoint-7/model.safetensors", "runs/events", "anchor_rewards/data.arrow", "frontier/frontier.md",
)  # fmt: skip


def test_what_the_table_lists_is_sent_and_nothing_else(tmp_path, stage):
    listed = {row.name.replace("{N}", "00001").replace("*", "a") for row in MODEL_FILES if row.published} - {"a.py"}
    write(tmp_path / "run", **dict.fromkeys((*listed, *STRAY), "{}"))
    published, done = stage(tmp_path / "run")
    assert published.keys() == listed
    staying = {name.rstrip("/") for name in done.staying}
    assert {
        next(part for part in (name, *map(str, Path(name).parents)) if part in staying) for name in STRAY
    } == staying


def test_what_stays_is_named_by_push_and_preview(model_folder, hub, tmp_path, quick_reload, capsys):
    folder = model_folder()
    write(folder, **{"notes.txt": "", "other.safetensors": ""})
    line = f"{folder}: notes.txt, other.safetensors, .rm_toolkit_run.json, checkpoint-3/ stay here; only the files of a model are sent."
    push_model(str(folder), "tester/my-rm")
    assert line in capsys.readouterr().out.replace("\n", " ")
    assert main(["push", "--model", str(folder), "--repo-id", "x", "--preview", str(tmp_path / "preview")]) == 0
    assert line in capsys.readouterr().out.replace("\n", " ")
    sent = hub.models["tester/my-rm"].files.keys() - {".gitattributes", ".rm_toolkit_push.json"}
    found = {path.relative_to(tmp_path / "preview").as_posix() for path in (tmp_path / "preview").rglob("*")}
    assert sent == found - {"lm_head"} and not {"notes.txt", "other.safetensors"} & sent


def test_a_file_of_text_that_has_gigabytes_is_not_sent(tmp_path, stage):
    write(tmp_path / "run", **{"config.json": "{}"})
    with (tmp_path / "run" / "generation_config.json").open("wb") as file:
        file.truncate(64 << 30)
    with pytest.raises(InputError, match=r"generation_config\.json has 68,719,476,736 bytes"):
        stage(tmp_path / "run")


def test_many_files_that_stay_are_one_line():
    said = describe_staying("run", [f"{number}.txt" for number in range(1000)])
    assert said == (
        "run: 0.txt, 1.txt, 2.txt, 3.txt, 4.txt, 5.txt, 6.txt, 7.txt and 992 more stay here; only the files of a model "
        "are sent."
    )
    assert describe_staying("run", ["a"]) == "run: a stays here; only the files of a model are sent."
    assert describe_staying("run", []) is None


# ---- links ----


def test_a_link_out_of_the_folder_is_not_followed(tmp_path, stage):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    write(run, **{"config.json": "{}", "model.safetensors": ""})
    write(elsewhere, **{"card.md": "# private", "adapter/adapter_config.json": "{}", "head": "secret"})
    (run / "README.md").symlink_to(elsewhere / "card.md")
    (run / "adapter").symlink_to(elsewhere / "adapter")
    (run / "evaluation").symlink_to(elsewhere)
    published, done = stage(run)
    assert published.keys() == {"config.json", "model.safetensors"}
    assert done.staying == ["adapter", "evaluation", "README.md"]
    # A model published without the files it is loaded from would be broken.
    (run / "generation_config.json").symlink_to(elsewhere / "head")
    with pytest.raises(InputError, match=r"generation_config\.json is a link out of the folder.*nothing was sent"):
        stage(run)


def test_a_link_within_the_folder_is(tmp_path, stage):
    write(tmp_path / "run", **{"config.json": "{}", "weights/model.safetensors": "w"})
    (tmp_path / "run" / "model.safetensors").symlink_to("weights/model.safetensors")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    published, done = stage(tmp_path / "link")
    assert published["model.safetensors"].read_text() == "w" and done.staying == ["weights/"]


def test_a_figure_that_is_a_link_out_of_the_report_stays(tmp_path):
    write(tmp_path / "report", **{"report.md": "", "figures/a.png": "a"})
    write(tmp_path, **{"private.png": "b"})
    (tmp_path / "report/figures/b.png").symlink_to(tmp_path / "private.png")
    (tmp_path / "staged").mkdir()
    assert stage_evaluation(str(tmp_path / "report"), tmp_path / "staged") == ["evaluation/figures/a.png"]


# ---- code of a model ----


def test_code_goes_along_where_the_config_names_it(tmp_path, stage):
    write(
        tmp_path / "run",
        **{
            "config.json": json.dumps({"auto_map": {"AutoModel": "modeling_x.X", "AutoConfig": "other/repo--c.C"}}),
            "tokenizer_config.json": json.dumps({"auto_map": {"AutoTokenizer": ["tok_slow.T", None]}}),
            "modeling_x.py": "from .layers_x import Layer\nimport torch\n",
            "layers_x.py": "from .norm_x import Norm\n",
            "norm_x.py": "",
            "tok_slow.py": "",
            "my_experiments.py": "",
        },
    )
    wanted = {"modeling_x.py", "layers_x.py", "norm_x.py", "tok_slow.py"}
    assert code_files(tmp_path / "run") == wanted
    published, done = stage(tmp_path / "run")
    assert published.keys() == wanted | {"config.json", "tokenizer_config.json"}
    assert done.staying == ["my_experiments.py"]


# ---- the base of an adapter ----


@pytest.mark.parametrize(("base", "name", "revision"), [("me/base", "me/base", None), ("me/b@v2", "me/b", "v2")])
def test_an_adapter_names_its_published_base_and_that_one_s_revision(tmp_path, stage, base, name, revision):
    config = {"base_model_name_or_path": str(tmp_path), "revision": "old"}
    write(tmp_path / "run", **{"adapter_config.json": json.dumps(config), "adapter_model.safetensors": ""})
    published, _ = stage(tmp_path / "run", base)
    found = json.loads(published["adapter_config.json"].read_text())
    assert found == {"base_model_name_or_path": name, "revision": revision}
    # If the base is on the Hub, its revision at training is kept.
    config = {"base_model_name_or_path": "me/trained-on", "revision": "old"}
    write(tmp_path / "run", **{"adapter_config.json": json.dumps(config)})
    assert json.loads(stage(tmp_path / "run")[0]["adapter_config.json"].read_text()) == config


# ---- local paths ----


def test_where_things_were_loaded_from_is_taken_out(tmp_path, stage):
    config = {"_name_or_path": str(tmp_path / "base"), "text_config": {"_name_or_path": "/gone/other"}, "rope": 1}
    tokenizer = {"name_or_path": "owner/name", "tokenizer_file": str(tmp_path / "t.json")}
    write(
        tmp_path / "run",
        **{"config.json": json.dumps(config), "tokenizer_config.json": json.dumps(tokenizer), "tokenizer.json": "{ }"},
    )
    published, _ = stage(tmp_path / "run")
    assert json.loads(published["config.json"].read_text()) == {
        "_name_or_path": "base",
        "text_config": {"_name_or_path": "other"},
        "rope": 1,
    }
    assert json.loads(published["tokenizer_config.json"].read_text()) == {
        "name_or_path": "owner/name",
        "tokenizer_file": "t.json",
    }
    assert published["tokenizer.json"].read_text() == "{ }"


def test_a_path_among_the_settings_of_a_run_is_its_last_part(tmp_path):
    lineage = [
        {"stage": "grft", "changed_settings": {"chat_template_path": "/home/x/t.jinja", "lr": 1, "a": ["/b/c"]}}
    ]
    found = public_settings(RewardModelSettings(lineage=lineage)).lineage[0]["changed_settings"]
    assert found == {"chat_template_path": "t.jinja", "lr": 1, "a": ["c"]}


PLACES = {
    "training_log.json": (
        lambda here: json.dumps({"log_history": [{"file": f"{here}/x"}]}),
        r"`log_history\[0\].file`",
    ),
    "final_eval_results.json": (lambda here: json.dumps({"start": {}, "end": {}, f"{here}/x": 1}), "a key"),
    "generation_config.json": (lambda here: json.dumps({"a": f"cp {here}/x y"}), "`a`"),
    "README.md": (lambda here: f"# Card\n\nTrained on {here}/x.\n", "line 3"),
    "chat_template.jinja": (lambda here: "{{ '" + f"{here}/x" + "' }}", "line 1"),
}


@pytest.mark.parametrize("name", PLACES)
def test_a_place_of_the_machine_in_a_published_file_is_refused(model_folder, hub, quick_reload, tmp_path, name):
    make, where = PLACES[name]
    folder = model_folder()
    (folder / name).write_text(make(folder))
    with pytest.raises(
        InputError, match=rf"{name}, {where}: '{folder}/x' is a path of this machine; nothing was sent"
    ):
        push_model(str(folder), "tester/my-rm")
    with pytest.raises(InputError, match=rf"{name}, {where}"):
        preview_model(str(folder), "tester/my-rm", str(tmp_path / "preview"))
    assert not hub.models and not (tmp_path / "preview").exists()


@pytest.mark.parametrize(
    "text",
    [
        "https://a.b/c/d",
        "data/samples/dsp.json",
        "<think>a</think>",
        "either/or/both",
        "#!/usr/bin/env python",
        "1/2/3",
    ],
)
def test_what_is_no_place_of_the_machine_is_left_alone(tmp_path, text):
    write(tmp_path, **{"staged/README.md": text, "staged/a.json": json.dumps({"a": text, text: 1})})
    check_no_places(tmp_path / "staged", source=str(tmp_path))
    assert shorten_paths(text) in (text, "#!env python")


def test_places_are_known_by_home_working_folder_and_what_is_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "/home/nobody-here")
    monkeypatch.chdir(tmp_path)
    for text in ("/home/nobody-here/gone", "~/models/rm", f"{tmp_path}/gone", os.path.realpath(__file__)):
        write(tmp_path, **{"staged/README.md": f"see {text}, please"})
        with pytest.raises(InputError, match=r"README.md, line 1: .* is a path of this machine"):
            check_no_places(tmp_path / "staged", source="elsewhere")
    write(tmp_path, **{"staged/README.md": "see /data/of/others"})  # such as a container's
    check_no_places(tmp_path / "staged", source="elsewhere")


def test_all_that_a_run_wrote_can_be_published_again_from_a_download(
    model_folder, hub, quick_reload, tmp_path, capsys
):
    """A downloaded repository contains what an earlier push added: its card, figures and list of files."""
    folder = model_folder()
    write(tmp_path, **{"report/report.md": f"ran in {tmp_path}/x\n", "report/figures/margins.png": "png"})
    write(tmp_path, **{f"report/{name}": "a text of a pair" for name in EVALUATION_TEXTS})
    push_model(str(folder), "tester/my-rm", evaluation=str(tmp_path / "report"))
    arrived = [*hub.models["tester/my-rm"].files.values(), *hub.large.values()]
    assert not any(b"a text of a pair" in own for own in arrived)
    sent = dict(hub.models["tester/my-rm"].files)
    write(tmp_path / "again")
    for name, own in sent.items():
        (tmp_path / "again" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "again" / name).write_bytes(own)
    capsys.readouterr()
    push_model(str(tmp_path / "again"), "tester/copy")
    assert ".gitattributes, .rm_toolkit_push.json stay here" in capsys.readouterr().out.replace("\n", " ")
    again = hub.models["tester/copy"].files
    assert again.keys() == sent.keys()
    assert again["evaluation/report.md"] == sent["evaluation/report.md"] == b"ran in x\n"
    assert load_settings(str(folder)).stage == json.loads(again["rm_toolkit.json"])["stage"]
    shutil.rmtree(tmp_path / "again")


EVALUATION_TEXTS = ("pairs.parquet", "report.html", "report_files/pairs.js", "report_files/texts-0.js")


def test_the_texts_of_an_evaluation_are_published_only_if_that_is_asked_for(tmp_path):
    report, target = tmp_path / "report", tmp_path / "staged"
    write(report, **{"report.md": "", "pairs.parquet": "a text", "report_files/texts-0.js": f"a text of {tmp_path}/x"})
    write(report, **{"metrics.json": json.dumps({"results": {"rm": {}}})})
    page = content.page("Evaluation", [content.section("Made", [content.code(f"evaluate --model {tmp_path}/rm")])])
    write_document(report / "report.html", page)
    for publish, names in (
        (False, ["report.md"]),
        (True, ["pairs.parquet", "report.html", "report.md", "texts-0.js"]),
    ):
        target.mkdir(exist_ok=True)
        stage_evaluation(str(report), target, publish_texts=publish)
        assert sorted(path.name for path in target.rglob("*.*")) == names
    staged = (target / "evaluation" / "report.html").read_text()
    assert "evaluate --model rm" in staged and str(tmp_path) not in staged
    assert (target / "evaluation" / "report_files" / "texts-0.js").read_text() == f"a text of {tmp_path}/x"

    write(report, **{"metrics.json": json.dumps({"results": {f"{tmp_path}/rm": {}}})})
    with pytest.raises(InputError, match=r"a model '.*/rm', which is a path of this machine.*--model NAME="):
        stage_evaluation(str(report), target, publish_texts=True)
    write(report, **{"metrics.json": json.dumps({"results": {}, "datasets": {f"{tmp_path}/set": {}}})})
    with pytest.raises(InputError, match=r"a test set '.*/set', which is a path of this machine.*--datasets NAME="):
        stage_evaluation(str(report), target, publish_texts=True)
    (report / "pairs.parquet").unlink()
    with pytest.raises(InputError, match=r"pairs\.parquet is not there.*nothing was sent"):
        stage_evaluation(str(report), target, publish_texts=True)


def test_texts_without_an_evaluation_are_refused(capsys):
    assert main(["push", "--model", "rm", "--repo-id", "you/rm", "--publish-texts"]) == 2
    assert "add --evaluation DIR" in capsys.readouterr().err


def test_a_preview_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    (tmp_path / "staged").mkdir()
    (tmp_path / "staged" / "README.md").write_text("a card")
    push, output = Push(str(tmp_path), "someone/model"), tmp_path / "preview"

    def fail(source, target, **options):
        (Path(target) / "README.md").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(shutil, "copytree", fail)
        write_preview(push, tmp_path / "staged", str(output))
    assert [path.name for path in tmp_path.iterdir()] == ["staged"]
    write_preview(push, tmp_path / "staged", str(output))
    assert (output / "README.md").read_text() == "a card"
