"""One self-contained HTML file; large data is stored beside it and loaded on demand."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..folders import replaced_file
from .content import Block, figures_of
from .escaping import script_json


ASSETS = Path(__file__).parent / "assets"
DATA_FOLDER = "report_files"
LARGEST = 20_000_000  # bytes of a page that includes all of its data
HEAD, TAIL = "RMT.receive(", ")\n"
# Names and order: later files use earlier ones.
STYLES = ("page.css", "pairs.css")
SCRIPTS = (
    "core.js", "blocks.js", "text.js", "diff.js", "report.js", "pair_index.js", "search.js", "state.js", "filters.js",
    "pair_list.js", "pair_detail.js", "pairs.js", "main.js",
)  # fmt: skip


class PageData:
    """
    Blocks of data that a page reads by name on demand: written one by one, none kept in memory.

    Args:
        folder (`Path`): Folder of the page, in which the blocks get a folder of their own.
    """

    def __init__(self, folder: Path):
        self.folder = folder / DATA_FOLDER
        self.names: list[str] = []
        self.size = 0

    def add(self, name: str, value: Any) -> None:
        """
        Writes a block.

        Args:
            name (`str`): Letters, digits and hyphens.
            value: A JSON value.
        """
        self.add_json(name, script_json(value))

    def add_json(self, name: str, text: str) -> None:
        """Writes a block whose JSON was already made by [`~rm_toolkit.output.page.escaping.script_json`]."""
        self.folder.mkdir(exist_ok=True)
        data = f'{HEAD}"{name}",{text}{TAIL}'.encode()
        (self.folder / f"{name}.js").write_bytes(data)
        self.names.append(name)
        self.size += len(data)


def write_document(path: Path, content: Block, data: PageData | None = None, *, largest: int = LARGEST) -> None:
    """
    Writes a page atomically. If the page includes its data, the data folder is removed.

    Args:
        path (`Path`): The HTML file; figures are named relative to its folder.
        content (`dict`): From [`~rm_toolkit.output.page.content.page`].
        data (`PageData`, *optional*): Data that it reads by name, in the same folder.
        largest (`int`): Bytes up to which the page includes figures and data.
    """
    figures = figures_of(content)
    size = sum(4 * (path.parent / figure["file"]).stat().st_size // 3 for figure in figures)
    alone = size + (data.size if data else 0) <= largest
    if alone:
        content = _with_figures(content, path.parent)
    with replaced_file(path) as file:
        file.writelines(_document(content, data, alone))
    if data and data.names and alone:
        shutil.rmtree(data.folder)


def _document(content: Block, data: PageData | None, alone: bool) -> Iterator[str]:
    style = "\n".join(_asset(name) for name in STYLES)
    script = "\n".join(_asset(name) for name in SCRIPTS)
    yield (
        _asset("page.html")
        .partition("{body}")[0]
        .format(policy=html.escape(_policy(style, script, alone)), title=_title(content), style=style)
    )
    yield _block("content", script_json(content))
    names = data.names if data else []
    yield _block("places", script_json({"folder": None if alone else DATA_FOLDER, "names": names}))
    for name in names if alone else ():
        text = (data.folder / f"{name}.js").read_text(encoding="utf-8")
        yield _block(name, text[len(f'{HEAD}"{name}",') : -len(TAIL)])
    yield f"<script>{script}</script>"
    yield _asset("page.html").partition("{body}")[2]


def _policy(style: str, script: str, alone: bool) -> str:
    """
    What the browser may load: our own style and script, by their hashes, and, for a large page, files beside it.

    Nothing else runs, whatever is in the data, and no connection is made.
    """
    beside = "" if alone else " 'self'"
    return (
        f"default-src 'none'; script-src '{_hash(script)}'{beside}; style-src '{_hash(style)}'; img-src data:{beside}; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"


def _block(name: str, text: str) -> str:
    return f"{_opening(name)}{text}</script>\n"


def _opening(name: str) -> str:
    return f'<script type="application/json" id="data-{name}">'


def _title(content: Block) -> str:
    return f"<title>{html.escape(content['title'])}</title>"


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _with_figures(content: Block, folder: Path) -> Block:
    """The page with its figures included."""

    def embedded(block: Block) -> Block:
        if block["kind"] != "figure":
            return block
        data = base64.b64encode((folder / block["file"]).read_bytes()).decode("ascii")
        return {**block, "source": f"data:image/png;base64,{data}"}

    sections = [{**part, "blocks": [embedded(block) for block in part["blocks"]]} for part in content["sections"]]
    return {**content, "sections": sections}


def rewrite_content(path: Path, output: Path, change: Callable[[str], str]) -> None:
    """
    Copies a page with every string of its report changed; the data of its pairs does not change.

    Args:
        path, output (`Path`): The page, and the copy.
        change (`Callable`): Returns the replacement of a string.

    Raises:
        `InputError`: if the file is not a page of this toolkit.
    """
    text = path.read_text(encoding="utf-8")
    head, opened, rest = text.partition(_opening("content"))
    block, closed, tail = rest.partition("</script>")
    if not opened or not closed:
        raise InputError(f"{path} is not a page that rm-toolkit wrote. Write it again.")
    old = json.loads(block)
    new = _changed(old, change)
    head = head.replace(_title(old), _title(new), 1)
    output.write_text(head + opened + script_json(new) + closed + tail, encoding="utf-8")


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, dict):
        # Figures and anchors of the page itself are not text.
        return {key: own if key in ("source", "file", "to") else _changed(own, change) for key, own in value.items()}
    if isinstance(value, list):
        return [_changed(own, change) for own in value]
    return change(value) if isinstance(value, str) else value
