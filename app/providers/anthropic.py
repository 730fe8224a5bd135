"""Claude, behind Anthropic's own API: all that its OpenAI-compatible one leaves out."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import msgspec
from pydantic import Field, PositiveInt

from app.errors import (
    ContextLengthError,
    GatewayError,
    InvalidRequestError,
    UnfitError,
    UpstreamError,
    UpstreamTimeoutError,
)
from app.providers.anthropic_answer import Chunks, completion_of
from app.providers.anthropic_request import message_request
from app.providers.base import Quota, TargetConfig, named, pause_asked_for
from app.providers.claude import Claude, Effort, Reasoning, Structured, reasoning_by, structured_by, takes_sampling
from app.schema import Ability, Completion, Form, StreamPart

if TYPE_CHECKING:
    import anthropic

_TOO_LONG = re.compile(r"prompt is too long|exceed(s|ed)? (the )?context|context (window|limit)", re.IGNORECASE)
_UNPAID = "credit balance"  # comes as a 400, but is not the request's fault
_MALFORMED = (msgspec.DecodeError, KeyError, TypeError, AttributeError)  # of an answer that is not a message


class AnthropicProviderConfig(TargetConfig):
    """A model behind Anthropic's own API.

    Attributes:
        base_url: Of the API, with or without `/v1`.
        max_tokens: Limit of the answers to requests that set none.
        prompt_caching: Whether the ends of tools, system prompt and all but the last exchange are marked, so that the
            API caches what comes before. Reading that is cheap; writing it costs a quarter more
            (`usd_per_1m_cache_write_tokens`).
        prompt_caching_from_tokens: What ends before so many tokens, by an estimate, is not marked.
        sampling: Whether the model takes `temperature` and `top_p`; by default models before Claude 4.7 do. Where it
            does not, they are left out.
        structured: What `response_format` with a schema becomes: `schema`, the API's structured output, or `tool`, a
            call that the model must make; by default `schema` from Claude 4.1 on. A schema that structured output
            lacks (free-form objects) is a `tool` anyway.
        reasoning: What `reasoning_effort` becomes: `effort` (with adaptive thinking), `budget` or `off`; by default
            `effort` from Claude 4.6 on, `budget` from 3.7 on.
        reasoning_budgets: Tokens of thought by effort, if the answer's limit has room for them.
    """

    takes: ClassVar[frozenset[Ability | Form]] = frozenset(("tools", "vision", "files"))
    kind: Literal["anthropic"]
    base_url: str = "https://api.anthropic.com"
    api_key_env: str | None = "ANTHROPIC_API_KEY"
    max_tokens: PositiveInt = 8192
    prompt_caching: bool = True
    prompt_caching_from_tokens: PositiveInt = 1024
    sampling: bool | None = None
    structured: Structured | None = None
    reasoning: Reasoning | None = None
    reasoning_budgets: Mapping[Effort, Annotated[int, Field(ge=1024)]] = {
        "low": 1024,
        "medium": 4096,
        "high": 16384,
        "xhigh": 32768,
    }

    def build(self) -> AnthropicProvider:
        """Open a client; reads the key from the environment of the replica."""
        import anthropic

        client = anthropic.AsyncAnthropic(
            base_url=self.base_url.rstrip("/").removesuffix("/v1"),  # the client adds it
            api_key=os.environ[self.api_key_env] if self.api_key_env else "none",
            timeout=anthropic.Timeout(self.timeout_s, connect=min(self.connect_timeout_s, self.timeout_s)),
            max_retries=0,  # the tier's own policy retries
        )
        return AnthropicProvider(self, client)

    def claude(self) -> Claude:
        """Return how the model is asked."""
        return Claude(
            model=self.model,
            max_tokens=self.max_tokens,
            sampling=takes_sampling(self.model) if self.sampling is None else self.sampling,
            structured=self.structured or structured_by(self.model),
            reasoning=self.reasoning or reasoning_by(self.model),
            budgets=self.reasoning_budgets,
            mark_from_tokens=self.prompt_caching_from_tokens if self.prompt_caching else None,
        )


class AnthropicProvider:
    """A ChatProvider over the `anthropic` client.

    Attributes:
        quota: What the API says is left of its rate limits.
    """

    def __init__(self, config: AnthropicProviderConfig, client: anthropic.AsyncAnthropic) -> None:
        self.quota = Quota()
        self._config = config
        self._claude = config.claude()
        self._client = client

    async def complete(self, body: Mapping[str, Any]) -> Completion:
        """Answer a request in one piece.

        Raises:
            UnfitError: The request asks for what the API does not give.
            InvalidRequestError: The API refuses the request itself.
            UpstreamError: The API failed, or answered something that is not a message.
        """
        params, answer_tool = message_request(body, self._claude)
        with self._translated():
            raw = await self._client.messages.with_raw_response.create(**params)
            content = await raw.read()
        self.quota.seen(raw.headers)
        try:
            answer = completion_of(msgspec.json.decode(content), answer_tool)
        except _MALFORMED as error:
            raise UpstreamError(f"{self._config.model}: the answer is not a message", "anthropic") from error
        return Completion(answer, self._config.model)

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[StreamPart, None]:
        """Answer a request piece by piece, the last chunk with the usage. Raises as `complete` does."""
        model = self._config.model
        params, answer_tool = message_request(body, self._claude)
        chunks = Chunks(answer_tool)
        with self._translated():
            stream = await self._client.messages.create(stream=True, **params)
            self.quota.seen(stream.response.headers)
            async with stream:
                async for event in stream:
                    try:
                        found = chunks.add(event.to_dict())
                    except _MALFORMED as error:
                        raise UpstreamError(f"{model}: an event is not one of a message", "anthropic") from error
                    if found:
                        yield StreamPart(found, model)
        if not chunks.over:
            raise UpstreamError(f"{model}: the stream ended before its message", "anthropic")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        import anthropic
        import httpx2

        model = self._config.model
        try:
            yield
        except (anthropic.APITimeoutError, httpx2.TimeoutException) as error:  # the latter in a stream
            raise UpstreamTimeoutError(f"{model}: no answer in {self._config.timeout_s:g} s", "anthropic") from error
        except anthropic.APIStatusError as error:
            raise self._named(error) from error
        except anthropic.APIError as error:
            raise UpstreamError(f"{model}: {type(error).__name__}", "anthropic") from error
        except (httpx2.HTTPError, ValueError) as error:  # a stream that breaks off, or an event that is not JSON
            raise UpstreamError(f"{model}: {type(error).__name__}", "anthropic") from error

    def _named(self, error: anthropic.APIStatusError) -> GatewayError:
        """Tell whose fault a status is: the request's, or the API's. An error in a stream has the status 200."""
        said = error.api_message or error.message
        message = f"{self._config.model}: {said}"
        if error.status_code == 413:
            return UnfitError(message, "messages")
        if error.status_code in (400, 422) and _UNPAID not in said:
            return ContextLengthError(message) if _TOO_LONG.search(said) else InvalidRequestError(message)
        status = error.status_code
        name = _UNPAID if _UNPAID in said else named(error.type)
        what = name if status == 200 else f"status {status}: {name}"
        pause_s = pause_asked_for(error.response.headers) if status != 200 else None
        if status == 429 and pause_s is None:
            pause_s = 1.0
        passes = status in (200, 408, 409, 429) or status >= 500
        return UpstreamError(f"{self._config.model}: {what}", "anthropic", pause_s, passes)
