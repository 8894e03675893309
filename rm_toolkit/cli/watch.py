"""`rm-toolkit watch DIR`: the live page of a run, rewritten as it trains."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from ..errors import InputError
from ..output.ranges import Number
from .options import PLACE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.epilog = (
        "example:\n  rm-toolkit watch outputs/grft\n\n"
        "Open the file that it prints in a browser: while the run trains, the page reloads itself from the disk. It ends\n"
        "with the run; the page of a run that is over or was killed is written once. The folder itself is only read."
    )
    add = parser.add_argument
    add("folder", type=PLACE, metavar="DIR", help="the `output_dir` of a run: running, finished or killed")
    add("--output", type=PLACE, metavar="FILE", help="the page (default: DIR-watch.html, beside the folder)")
    add("--every", type=Number(1, 3600), default=5, metavar="SECONDS", help="seconds between two updates (default 5)")
    add("--once", action="store_true", help="write the page once, even while the run trains")


def outputs(args: argparse.Namespace) -> list[Path]:
    """Paths that only one process may write at a time."""
    return [page_of(args)]


def page_of(args: argparse.Namespace) -> Path:
    """Returns where the page goes."""
    folder = args.folder.resolve()
    return args.output or folder.parent / f"{folder.name}-watch.html"


def run(args: argparse.Namespace) -> None:
    """Writes the page until the run is over."""
    from ..output.folders import replace_text
    from ..training.watch_page import watch_page
    from ..training.watching import RUNNING, read_run

    page = page_of(args)
    if page.is_dir():
        raise InputError(f"--output {page} is a folder; name a file.")
    if page.is_file() and not page.read_bytes()[:64].lstrip().lower().startswith(b"<!doctype html"):
        raise InputError(f"{page} exists and is not a page; nothing was changed. Name another --output.")
    found = read_run(args.folder)
    told = False
    while True:
        replace_text(page, watch_page(found, args.every))
        going_on = found.state == RUNNING and not args.once
        if not told or not going_on:
            print(
                f"{page}: {found.state}{f' {found.unseen}' if found.unseen else ''}, step {found.step:,}"
                + (f" of {found.max_steps:,}" if found.max_steps else ""),
                flush=True,
            )
            told = True
        if not going_on:
            return
        time.sleep(args.every)
        found = read_run(args.folder)
