"""Asks questions concurrently; every answer is in the journal before the next question is asked."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tqdm.auto import tqdm

from ..errors import InputError
from ..output.progress import no_bar
from .endpoint import Endpoint, Unanswered
from .journal import Answer, Journal


# This many refused requests before any answer mean that the settings are wrong, not the question.
REFUSALS_THAT_STOP = 3


@dataclass(frozen=True)
class Question:
    """
    One question.

    Args:
        key (`str`): See [`~rm_toolkit.collection.journal.question_key`].
        domain, system_prompt, query (`str`): The domain, its system prompt, and the instruction.
    """

    key: str
    domain: str
    system_prompt: str
    query: str


@dataclass
class Outcome:
    """
    The result of the questions of one run.

    Args:
        answered (`int`): Answers that this run added to the journal.
        failures (`Counter`): Kind of the failure -> number of questions.
        examples (`dict[str, str]`): Kind of the failure -> message of the last one.
        not_asked (`int`): Questions left when the run gave up.
    """

    answered: int = 0
    failures: Counter = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    not_asked: int = 0

    @property
    def num_failed(self) -> int:
        return sum(self.failures.values())


async def ask_all(
    questions: Sequence[Question],
    endpoint: Endpoint,
    journal: Journal,
    *,
    concurrency: int,
    show_progress: bool = True,
) -> Outcome:
    """
    Asks the questions that the journal does not have.

    Args:
        questions (`Sequence[Question]`): All questions; answered ones count in the progress bar.
        endpoint (`Endpoint`): The endpoint.
        journal (`Journal`): Gets every answer.
        concurrency (`int`): Number of concurrent requests.
        show_progress (`bool`): Whether to draw a progress bar.

    Returns:
        `Outcome`: Also if questions stay unanswered. The run gives up when twice as many as `concurrency` (at least
            10) fail in a row.

    Raises:
        `InputError`: if no question can be answered: wrong key, no such model, settings that the endpoint refuses.
    """
    open_questions = [question for question in questions if question.key not in journal.answers]
    if not open_questions:
        return Outcome()
    await endpoint.check()
    bar = tqdm(
        total=len(questions),
        initial=len(questions) - len(open_questions),
        desc="Asking",
        unit=" answers",
        disable=no_bar(show_progress),
    )
    run = _Run(endpoint, journal, iter(open_questions), bar, patience=max(10, 2 * concurrency))
    workers = [asyncio.create_task(run.work()) for _ in range(min(concurrency, len(open_questions)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        bar.close()
    run.outcome.not_asked = len(open_questions) - run.outcome.answered - run.outcome.num_failed
    return run.outcome


class _Run:
    """State shared by the workers."""

    def __init__(self, endpoint: Endpoint, journal: Journal, questions: Iterator[Question], bar: tqdm, patience: int):
        self.endpoint = endpoint
        self.journal = journal
        self.questions = questions
        self.bar = bar
        self.patience = patience
        self.outcome = Outcome()
        self.begin = time.monotonic()
        self.tokens = 0
        self.failed_in_a_row = 0
        self.num_refused = 0

    async def work(self) -> None:
        for question in self.questions:
            if self.failed_in_a_row >= self.patience:
                return
            try:
                answer = await self.endpoint.ask(question.key, question.domain, question.system_prompt, question.query)
            except Unanswered as error:
                self._failed(error)
            else:
                self._succeeded(answer)
                # In a thread: answers that arrive meanwhile are written and do not wait for the disk.
                await asyncio.to_thread(self.journal.sync)

    def _succeeded(self, answer: Answer) -> None:
        self.journal.add(answer)
        self.outcome.answered += 1
        self.failed_in_a_row = 0
        self.tokens += answer.prompt_tokens + answer.completion_tokens
        self.bar.update()
        self._show()

    def _failed(self, error: Unanswered) -> None:
        self.outcome.failures[error.kind] += 1
        self.outcome.examples[error.kind] = str(error)
        self.failed_in_a_row += 1
        self.num_refused += error.refused
        self._show()
        if not self.outcome.answered and self.num_refused >= REFUSALS_THAT_STOP:
            raise InputError(
                f"{self.endpoint.base_url} refuses every request ({error.kind}): {error} Change the sampling settings "
                "(--temperature, --max-tokens, --sampling-seed, --extra-body; 'none' leaves one out)."
            ) from error

    def _show(self) -> None:
        rate = self.tokens / max(time.monotonic() - self.begin, 1e-9)
        failed = f", {self.outcome.num_failed} failed" if self.outcome.num_failed else ""
        self.bar.set_postfix_str(f"{self.tokens:,} tokens, {rate:,.0f} tokens/s{failed}", refresh=False)
