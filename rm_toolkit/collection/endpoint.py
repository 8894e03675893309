"""An OpenAI-compatible endpoint: one question, one answer, or an error that says what is wrong."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from dataclasses import dataclass
from typing import Annotated, Any

from ..errors import InputError, did_you_mean, first_line, one_line
from ..output.addresses import check_address
from ..output.nested_ranges import Keys
from ..output.ranges import Text
from ..output.redaction import hide, hide_values, redact
from ..output.stated_ranges import check_ranges
from ..output.strict_json import strict_json
from .journal import Answer
from .number_ranges import MAX_RETRIES, MAX_TOKENS, SAMPLING_SEED, TEMPERATURE, TIMEOUT, TOP_P


try:
    import openai
    from openai.types.chat import ChatCompletion

    from .bounded_client import BoundedClient
except ImportError as error:
    raise InputError("collecting needs the `openai` client: pip install -c constraints.txt -e '.[collect]'") from error

KEY_VARIABLE = "OPENAI_API_KEY"
# Local servers need no key, but the client requires a value.
NO_KEY = "none"


@dataclass(frozen=True)
class Sampling:
    """
    How answers are sampled; `None` leaves a setting to the endpoint.

    Args:
        model (`str`): Name of the model at the endpoint.
        temperature (`float`, *optional*): Sampling temperature.
        top_p (`float`, *optional*): Nucleus sampling probability.
        max_tokens (`int`, *optional*): Most tokens per answer.
        seed (`int`, *optional*): Seed of the sampling, if the endpoint supports one.
        extra_body (`dict`, *optional*): More fields for the request.
    """

    model: Annotated[str, Text(empty=False)]
    temperature: Annotated[float | None, TEMPERATURE] = None
    top_p: Annotated[float | None, TOP_P] = None
    max_tokens: Annotated[int | None, MAX_TOKENS] = None
    seed: Annotated[int | None, SAMPLING_SEED] = None
    extra_body: Annotated[dict[str, Any] | None, Keys()] = None

    def __post_init__(self) -> None:
        check_ranges(self)

    def request(self) -> dict[str, Any]:
        """The arguments of `chat.completions.create`."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}


class Unanswered(Exception):
    """A question has no answer after all retries. `refused`: the endpoint does not accept the request itself."""

    def __init__(self, kind: str, message: str, *, refused: bool = False):
        super().__init__(message)
        self.kind = kind
        self.refused = refused


class Endpoint:
    """
    Asks one endpoint. Rate limits, server errors, timeouts and broken connections are retried by the official client,
    which obeys `Retry-After`; answers that are not a completion are retried here.

    Args:
        base_url (`str`): Address, including `/v1`.
        sampling (`Sampling`): Model and sampling settings.
        api_key_env (`str`): Environment variable with the key.
        timeout (`float`): Seconds for one answer.
        max_retries (`int`): Number of retries per question.
    """

    def __init__(
        self,
        base_url: str,
        sampling: Sampling,
        *,
        api_key_env: str = KEY_VARIABLE,
        timeout: float = 120.0,
        max_retries: int = 6,
    ):
        TIMEOUT.check("timeout", timeout)
        MAX_RETRIES.check("max_retries", max_retries)
        self.base_url = check_base_url(base_url)
        self.sampling = sampling
        self.max_retries = max_retries
        self.api_key_env = api_key_env
        self._key = os.environ.get(api_key_env, "").strip()
        hide(self._key)
        hide_values(sampling.extra_body)
        if not self._key and api_key_env != KEY_VARIABLE:
            raise InputError(f"--api-key-env is '{api_key_env}', but there is no such environment variable.")
        self._client = openai.AsyncOpenAI(
            api_key=self._key or NO_KEY,
            base_url=self.base_url,
            timeout=timeout,
            max_retries=max_retries,
            http_client=BoundedClient(timeout, base_url=self.base_url, timeout=timeout),
        )

    async def check(self) -> None:
        """
        Checks that the endpoint answers, before the questions are asked.

        Raises:
            `InputError`: if nothing answers.
        """
        try:
            await self._client.with_options(max_retries=1, timeout=20.0).models.list()
        except openai.APITimeoutError:
            pass  # a slow server is not an absent one
        except openai.APIConnectionError as error:
            reason = self._clean(str(error.__cause__ or error))
            raise InputError(
                f"--base-url {self.base_url}: nothing answers there ({reason}). Is the server running, and is the "
                "address right, with port and `/v1`?"
            ) from error
        except (openai.OpenAIError, ValueError):
            pass  # not every endpoint lists its models; the first question shows a wrong key or model

    async def ask(self, key: str, domain: str, system_prompt: str, query: str) -> Answer:
        """
        Asks one question.

        Args:
            key, domain, query (`str`): Copied into the answer.
            system_prompt (`str`): The domain's.

        Raises:
            `Unanswered`: if there is no answer after all retries.
            `InputError`: if no question can be answered: wrong key, no such model.
        """
        messages = [{"role": "system", "content": system_prompt}, {"role": "user", "content": query}]
        problem = ""
        for attempt in range(self.max_retries + 1):
            if attempt:
                await asyncio.sleep(min(0.5 * 2 ** (attempt - 1), 8.0))
            try:
                completion = await self._client.chat.completions.create(messages=messages, **self.sampling.request())
            except openai.BadRequestError as error:
                if error.code == "content_filter":  # as reported by some providers
                    return Answer(key, domain, query, "", "content_filter", refused=True)
                raise self._unanswered(error) from error
            except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
                raise self._wrong_key(error) from error
            except openai.NotFoundError as error:
                raise await self._wrong_model(error) from error
            except (openai.APIResponseValidationError, ValueError) as error:  # a JSON error is a ValueError
                problem = str(error)
                continue
            except openai.OpenAIError as error:
                raise self._unanswered(error) from error
            problem = _what_is_missing(completion)
            if not problem:
                return _answer(completion, key, domain, query)
        raise Unanswered("garbage", f"the endpoint's answer is not a chat completion: {self._clean(problem)}")

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    def _unanswered(self, error: openai.OpenAIError) -> Unanswered:
        message = self._message(error)
        if isinstance(error, openai.RateLimitError):
            wait = error.response.headers.get("retry-after")
            return Unanswered("rate limit (429)", message + (f" (it asks to wait {wait} s)" if wait else ""))
        if isinstance(error, openai.APIStatusError):
            refused = error.status_code < 500 and error.status_code not in (408, 409)
            return Unanswered(f"status {error.status_code}", message, refused=refused)
        if isinstance(error, openai.APITimeoutError):
            return Unanswered("timeout", message)
        return Unanswered("connection", self._clean(str(error.__cause__ or error)))

    def _wrong_key(self, error: openai.APIStatusError) -> InputError:
        if self._key:
            remedy = f"Check the key in the environment variable {self.api_key_env}."
        else:
            remedy = (
                f"Put the key into the environment variable {self.api_key_env}, or name another with --api-key-env."
            )
        return InputError(
            f"{self.base_url} refuses the API key ({error.status_code}): {self._message(error)} {remedy}"
        )

    async def _wrong_model(self, error: openai.APIStatusError) -> InputError:
        try:
            known = [model.id for model in (await self._client.with_options(max_retries=0).models.list()).data]
        except (openai.OpenAIError, ValueError, TypeError, AttributeError):
            known = []
        hint = did_you_mean(self.sampling.model, known)
        if not known and not self.base_url.endswith("/v1"):
            hint = " Most addresses end in `/v1`."
        if known:
            hint += " It has " + ", ".join(f"'{name}'" for name in sorted(known)[:12]) + "."
        return InputError(
            f"--model is '{self.sampling.model}', but {self.base_url} does not know it, or serves no chat completions "
            f"there (404): {self._message(error)}{hint}"
        )

    def _message(self, error: openai.OpenAIError) -> str:
        body = getattr(error, "body", None)
        message = body.get("message") if isinstance(body, dict) else None
        return self._clean(str(message or error))

    def _clean(self, text: str) -> str:
        """One line, without the key: some servers repeat the key in their errors."""
        text = redact(" ".join(text.split()))
        return text if len(text) <= 300 else text[:300] + "…"


def check_base_url(base_url: str) -> str:
    """
    Returns the address without a trailing slash.

    Raises:
        `InputError`: if it is not an http address, or has a password, which would end up in the journal.
    """
    return check_address(base_url, "--base-url", "http://localhost:8000/v1", KEY_VARIABLE)


def parse_extra_body(text: str) -> dict[str, Any]:
    """Reads `--extra-body`; raises an `InputError` if it is not a JSON object."""
    try:
        value = strict_json(text)
    except ValueError as error:
        raise InputError(f"--extra-body '{one_line(text, 200)}' is not valid JSON ({first_line(error)}).") from error
    if not isinstance(value, dict):
        raise InputError(f"--extra-body '{text}' must be a JSON object such as {{\"top_k\": 40}}.")
    return value


def _what_is_missing(completion: Any) -> str:
    """Why this is not a chat completion, or an empty string: the client does not check what it gets."""
    if not isinstance(completion, ChatCompletion):
        return f"it is {type(completion).__name__}: {str(completion)[:100]}"
    error = (completion.model_extra or {}).get("error")
    if error:
        return f"it is an error: {error}"
    if not isinstance(completion.choices, list) or not completion.choices:
        return "it has no `choices`"
    message = getattr(completion.choices[0], "message", None)
    if message is None or not isinstance(getattr(message, "content", None), str | None):
        return "its first choice has no `message` with a text"
    return ""


def _answer(completion: ChatCompletion, key: str, domain: str, query: str) -> Answer:
    choice, usage = completion.choices[0], completion.usage
    # Half of a surrogate pair, as left by a truncated emoji, is not text and could not be written.
    text = (choice.message.content or "").encode("utf-8", "replace").decode()
    return Answer(
        key,
        domain,
        query,
        text.strip(),
        choice.finish_reason,
        refused=bool(getattr(choice.message, "refusal", None)),
        model=completion.model,
        prompt_tokens=getattr(usage, "prompt_tokens", 0) or 0,
        completion_tokens=getattr(usage, "completion_tokens", 0) or 0,
    )
