"""Rewards from a vLLM or sglang server that holds the model: requests with token ids, several at a time."""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

import httpx2
import numpy as np
from tqdm.auto import tqdm

from ..batches.tokenization import TokenizedPreferences
from ..errors import InputError
from ..output.addresses import check_address
from ..output.progress import no_bar
from ..output.redaction import PLACEHOLDER, redact
from .protocols import ABOUT, PROTOCOLS, Protocol
from .rewards import length_batches


KEY_VARIABLE = "RM_TOOLKIT_API_KEY"
# Seconds: to connect, and for one answer. A request has `tokens_per_batch` tokens, less than a second of work on a GPU.
CONNECT_TIMEOUT, ANSWER_TIMEOUT = 10.0, 300.0
# Waits of 0.5, 1, 2, 4, 8, 8 and 8 seconds: enough for a server that restarts within half a minute.
ATTEMPTS, FIRST_WAIT, LONGEST_WAIT = 8, 0.5, 8.0
# Concurrent requests, so that the server never waits for the next one.
AT_ONCE = 4
TEXTS_PER_REQUEST = 512


class ServedModel:
    """
    A reward model behind a server. HTTP status 400 to 499 is final; 500 and above, timeouts and broken connections are
    retried with increasing waits.

    Args:
        url (`str`): Address of the server, such as `http://localhost:8000`.
        max_length (`int`): Tokens of the longest text that it must read.
        answer_timeout (`float`): Seconds for one answer.
        attempts (`int`): Number of tries per request.

    Raises:
        `InputError`: if nothing answers, it does not serve a reward model, or it only reads shorter texts.
    """

    def __init__(self, url: str, *, max_length: int, answer_timeout: float = ANSWER_TIMEOUT, attempts: int = ATTEMPTS):
        address = check_address(url, "endpoint", "http://localhost:8000", KEY_VARIABLE)
        self.url = address.removesuffix("/classify").removesuffix("/pooling").removesuffix("/v1")
        self.attempts = attempts
        self._key = os.environ.get(KEY_VARIABLE, "").strip()
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        timeout = httpx2.Timeout(answer_timeout, connect=CONNECT_TIMEOUT)
        self._client = httpx2.Client(timeout=timeout, headers=headers, follow_redirects=False)
        weakref.finalize(self, self._client.close)
        self._stopped = threading.Event()
        self.protocol = self._find_protocol(max_length)

    def rewards(
        self,
        data: TokenizedPreferences,
        *,
        tokens_per_batch: int,
        show_progress: bool = False,
        on_batch: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """
        Requests the rewards of all sequences.

        Args:
            data (`TokenizedPreferences`): The sequences.
            tokens_per_batch (`int`): Tokens per request.
            show_progress (`bool`): Whether to draw a progress bar.
            on_batch (`Callable`, *optional*): Called with the number of sequences after each answer.

        Returns:
            `np.ndarray` of shape `(num_sequences,)`, fp32: Reward of each sequence, in logits.

        Raises:
            `InputError`: if the server refuses a request, or does not answer it after all retries.
        """
        rewards = np.zeros(data.num_sequences, dtype=np.float32)
        batches = [
            batch[begin : begin + TEXTS_PER_REQUEST]
            for batch in length_batches(data.lengths, tokens_per_batch)
            for begin in range(0, len(batch), TEXTS_PER_REQUEST)
        ]
        self._stopped.clear()
        pool = ThreadPoolExecutor(min(AT_ONCE, max(1, len(batches))))
        try:
            asked = {pool.submit(self.ask, [data.sequence(k).tolist() for k in batch]): batch for batch in batches}
            bar = tqdm(
                total=len(batches), desc="Asking the server", disable=no_bar(show_progress), leave=False, delay=2
            )
            with bar:
                for answer in as_completed(asked):
                    rewards[asked[answer]] = answer.result()
                    bar.update()
                    if on_batch is not None:
                        on_batch(len(asked[answer]))
        finally:
            self._stopped.set()  # after an error, stop the other requests: the server may never answer
            pool.shutdown(wait=False, cancel_futures=True)
        return rewards

    def ask(self, ids: list[list[int]]) -> list[float]:
        """
        Requests the rewards of some texts in one request.

        Args:
            ids (`list[list[int]]`): Token ids of each text.

        Raises:
            `InputError`: as in [`rewards`].
        """
        protocol = self.protocol
        response = self._send("POST", protocol.path, protocol.request(ids))
        if response.status_code == 404 and protocol.other_path() != protocol:
            self.protocol = protocol = protocol.other_path()
            response = self._send("POST", protocol.path, protocol.request(ids))
        answer = self._accepted(response, protocol.path)
        try:
            found = [float(value) for value in protocol.rewards(answer)]
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise InputError(f"{self.url}{protocol.path} returned an answer in an unknown form: {error!r}.") from error
        if len(found) != len(ids) or not all(map(math.isfinite, found)):
            raise InputError(
                f"{self.url}{protocol.path} returned {len(found)} rewards for {len(ids)} texts, or some that are not "
                f"finite. Is "
                "it served in float32?"
            )
        return found

    def _find_protocol(self, max_length: int) -> Protocol:
        response = self._send("GET", ABOUT)
        about = None if response.status_code in (404, 405) else self._accepted(response, ABOUT)
        found = next((protocol for kind in PROTOCOLS if (protocol := kind.of(about)) is not None), None)
        if found is None:
            raise InputError(f"{self.url} is not a vLLM or sglang server: it does not name its model at {ABOUT}.")
        if found.max_length is not None and found.max_length < max_length:
            raise InputError(
                f"{self.url} accepts texts of at most {found.max_length} tokens, but the model reads {max_length}. "
                "`rm-toolkit serve-command MODEL` prints how to start it."
            )
        return found

    def _accepted(self, response: httpx2.Response, path: str) -> Any:
        if response.status_code in (401, 403):
            remedy = f"Put the server's key into the environment variable {KEY_VARIABLE}."
            remedy = f"Check the key in the environment variable {KEY_VARIABLE}." if self._key else remedy
            raise InputError(f"{self.url} refuses the API key ({response.status_code}). {remedy}")
        if response.status_code != 200:
            raise InputError(f"{self.url}{path} refuses the request ({response.status_code}): {self._said(response)}")
        try:
            return response.json()
        except ValueError as error:
            raise InputError(f"{self.url}{path} did not return JSON: {self._said(response)}") from error

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx2.Response:
        """The first response with a status below 500."""
        problem = ""
        for attempt in range(self.attempts):
            if attempt and self._stopped.wait(min(FIRST_WAIT * 2 ** (attempt - 1), LONGEST_WAIT)):
                break
            try:
                response = self._client.request(method, self.url + path, json=body)
            except httpx2.TransportError as error:  # refused, broken, or too slow
                problem = self._clean(f"{type(error).__name__}: {error}")
                continue
            if response.status_code < 500:
                return response
            problem = f"{response.status_code}: {self._said(response)}"
        raise InputError(
            f"{self.url} does not answer {method} {path} after {self.attempts} tries ({problem}). Is the server running, and is "
            "the address right? `rm-toolkit serve-command MODEL` prints how to start it."
        )

    def _said(self, response: httpx2.Response) -> str:
        try:
            body = response.json()
        except ValueError:
            return self._clean(response.text)
        while isinstance(body, dict) and ("error" in body or "message" in body or "detail" in body):
            body = next(body[name] for name in ("error", "message", "detail") if name in body)
        return self._clean(str(body))

    def _clean(self, text: str) -> str:
        """One line, without the key: some servers repeat the key in their errors."""
        text = redact(" ".join(text.split()))
        if self._key:
            text = text.replace(self._key, PLACEHOLDER)
        return text if len(text) <= 300 else text[:300] + "…"
