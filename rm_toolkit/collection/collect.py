"""Instructions x domains -> answers in the DSP format, through a journal that survives every interruption."""

from __future__ import annotations

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..output.event_loop import run_async
from ..output.folders import replace_text
from ..output.lock import WriterLock
from ..output.redaction import redact
from .asking import Outcome, Question, ask_all
from .domains import NORMAL, Domain
from .endpoint import Endpoint
from .filters import FilterCounts, FilterOptions, filter_rows
from .instructions import Instruction, Selection
from .journal import Answer, Journal, question_key


@dataclass
class Collected:
    """
    The state of a collection after a run.

    Args:
        outcome (`Outcome`): Result of the questions that this run asked.
        num_questions (`int`): Instructions x domains.
        num_answers (`int`): Number of answered questions.
        complete (`int`): Instructions with an answer in every domain.
        counts (`FilterCounts`): Counts of the filters among those.
        tokens (`dict[str, int]`): `prompt` and `completion` tokens of all answers.
        finish_reasons (`Counter`): Of all answers.
        torn (`bool`): Whether the journal ended in a partial line, which was removed.
        files (`dict[str, str]`): `output`, `journal` and `report`.
    """

    outcome: Outcome
    num_questions: int
    num_answers: int
    complete: int
    counts: FilterCounts
    tokens: dict[str, int]
    finish_reasons: Counter
    torn: bool = False
    files: dict[str, str] = field(default_factory=dict)


def output_files(output: Path) -> dict[str, Path]:
    """The files of a collection: the data, and beside it the journal and the report."""
    return {
        "output": output,
        "journal": output.with_name(f"{output.stem}.journal.jsonl"),
        "report": output.with_name(f"{output.stem}.report.json"),
    }


def check_answers_file(output: Path, overwrite: bool) -> None:
    """
    Refuses an output that cannot or may not be written. An output with its journal beside it was written by this
    command.

    Raises:
        `InputError`: naming the file.
    """
    if output.suffix != ".json":
        raise InputError(f"--output is '{output}', but the DSP format is a JSON file. Give a name that ends in .json.")
    if output.is_dir():
        raise InputError(f"{output} is a folder. Give the name of a file.")
    output.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(output.parent, os.W_OK):
        raise InputError(f"{output}: its folder cannot be written to.")
    if output.exists() and not output_files(output)["journal"].exists() and not overwrite:
        raise InputError(
            f"{output} exists, but has no journal of a collection beside it. Pass --overwrite to replace it."
        )


def collect(
    selection: Selection,
    domains: Sequence[Domain],
    endpoint: Endpoint,
    output: Path,
    filters: FilterOptions,
    *,
    concurrency: int = 8,
    overwrite: bool = False,
    show_progress: bool = True,
) -> Collected:
    """
    Asks the missing questions, and writes the complete rows.

    Args:
        selection (`Selection`): The instructions.
        domains (`Sequence[Domain]`): The domains.
        endpoint (`Endpoint`): Who is asked.
        output (`Path`): JSON file in the DSP format; the journal and a report are beside it.
        filters (`FilterOptions`): What to leave out of the file. The journal keeps everything.
        concurrency (`int`): Questions under way at a time.
        overwrite (`bool`): Whether a journal with other settings may be replaced.
        show_progress (`bool`): Whether to draw a progress bar.

    Raises:
        `InputError`: if the settings, the key or the address are wrong. Unanswered questions are not an
            error here; see `Collected.outcome`.
    """
    with WriterLock(output):
        check_answers_file(output, overwrite)
        if len(domains) < 2 and not all(entry.answer for entry in selection.instructions):
            raise InputError(
                f"one domain ('{domains[0].name}') gives no preference: add a second one, or use instructions with "
                "their own answer (--columns output=…)."
            )
        if concurrency < 1:
            raise InputError(f"--concurrency is {concurrency}; it must be at least 1.")
        return _collect(selection, domains, endpoint, output, filters, concurrency, overwrite, show_progress)


def _collect(
    selection: Selection,
    domains: Sequence[Domain],
    endpoint: Endpoint,
    output: Path,
    filters: FilterOptions,
    concurrency: int,
    overwrite: bool,
    show_progress: bool,
) -> Collected:
    files = output_files(output)
    questions = [
        Question(question_key(domain.system_prompt, entry.query), domain.name, domain.system_prompt, entry.query)
        for entry in selection.instructions
        for domain in domains
    ]
    with Journal(files["journal"], redact(dataclasses.asdict(endpoint.sampling)), replace=overwrite) as journal:
        outcome = run_async(_ask(questions, endpoint, journal, concurrency, show_progress))
        answers = {question.key: journal.answers.get(question.key) for question in questions}
        torn = journal.torn
    rows = zip(selection.instructions, _rows(selection.instructions, domains, answers))
    complete = [(entry, row) for entry, row in rows if len(row) == len(domains)]
    own_answers = [entry.answer for entry, _ in complete]
    kept, counts = filter_rows([row for _, row in complete], own_answers, filters, NORMAL)
    found = _summary(outcome, answers, len(complete), counts)
    found.torn = torn
    found.files = {name: str(path) for name, path in files.items()}
    _write(files["output"], [_dsp_item(entry, row) for (entry, row), good in zip(complete, kept) if good])
    _write(files["report"], _report(found, selection, domains, endpoint, filters))
    return found


def _summary(outcome: Outcome, answers: dict[str, Answer | None], complete: int, counts: FilterCounts) -> Collected:
    given = [answer for answer in answers.values() if answer]
    return Collected(
        outcome,
        num_questions=len(answers),
        num_answers=len(given),
        complete=complete,
        counts=counts,
        tokens={
            "prompt": sum(answer.prompt_tokens for answer in given),
            "completion": sum(answer.completion_tokens for answer in given),
        },
        finish_reasons=Counter(str(answer.finish_reason) for answer in given),
    )


async def _ask(
    questions: list[Question], endpoint: Endpoint, journal: Journal, concurrency: int, show_progress: bool
) -> Outcome:
    try:
        return await ask_all(questions, endpoint, journal, concurrency=concurrency, show_progress=show_progress)
    finally:
        await endpoint.close()


def _rows(
    instructions: Sequence[Instruction], domains: Sequence[Domain], answers: dict[str, Answer | None]
) -> list[dict[str, Answer]]:
    """The existing answers by domain, in the order of the domains; one row per instruction."""
    rows = []
    for entry in instructions:
        found = {domain.name: answers[question_key(domain.system_prompt, entry.query)] for domain in domains}
        rows.append({name: answer for name, answer in found.items() if answer is not None})
    return rows


def _dsp_item(entry: Instruction, row: dict[str, Answer]) -> dict[str, Any]:
    responses = {name: answer.text for name, answer in row.items()}
    return {"query": entry.query, "responses": responses | ({NORMAL: entry.answer} if entry.answer else {})}


def _report(
    found: Collected,
    selection: Selection,
    domains: Sequence[Domain],
    endpoint: Endpoint,
    filters: FilterOptions,
) -> dict[str, Any]:
    return {
        "settings": redact({"base_url": endpoint.base_url, **dataclasses.asdict(endpoint.sampling)}),
        "domains": [dataclasses.asdict(domain) for domain in domains],
        "instructions": {**selection.counts, "selected": len(selection.instructions)},
        "questions": found.num_questions,
        "answers": found.num_answers,
        "complete_rows": found.complete,
        "kept_rows": found.counts.kept,
        "filters": dataclasses.asdict(filters),
        "answers_by_filter": {reason: dict(counter) for reason, counter in found.counts.answers.items()},
        "rows_left_out_by_filter": dict(found.counts.rows),
        "tokens": found.tokens,
        "finish_reasons": dict(found.finish_reasons),
    }


def _write(path: Path, content: Any) -> None:
    replace_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
