"""Any model behind an OpenAI-compatible API: OpenAI, Azure, the compatible endpoints of others, vLLM, Ollama."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from pydantic import PositiveFloat

from app.errors import ContextLengthError, InvalidRequestError, UpstreamError, UpstreamTimeoutError
from app.pricing import GivenPrice
from app.schema import Completion, StreamPart
from app.section import Section

if TYPE_CHECKING:
    import openai


class OpenAIProviderConfig(Section):
    """A model behind an OpenAI-compatible API.

    Attributes:
        model: The API's name for it, which clients may ask for.
        base_url: Of the API.
        api_key_env: The environment variable that holds the key; null means the API needs none.
        timeout_s: Longest wait for the API to send anything.
        price: What its tokens cost; by default the list price of the model.
    """

    kind: Literal["openai"] = "openai"
    model: str
    base_url: str = "https://api.openai.com/v1"
    api_key_env: str | None = "OPENAI_API_KEY"
    timeout_s: PositiveFloat = 60
    price: GivenPrice | None = None

    def available(self) -> bool:
        """Whether the key is in the environment, or none is needed."""
        return self.api_key_env is None or bool(os.environ.get(self.api_key_env))

    def build(self) -> OpenAIProvider:
        """Open a client; reads the key from the environment of the replica."""
        import openai

        key = os.environ[self.api_key_env] if self.api_key_env else "none"
        client = openai.AsyncOpenAI(
            base_url=self.base_url,
            api_key=key,
            timeout=self.timeout_s,
            max_retries=0,  # the tier's own policy retries
        )
        return OpenAIProvider(self, client)


class OpenAIProvider:
    """A ChatProvider over the `openai` client. Bodies pass as they are but for the model's name."""

    def __init__(self, config: OpenAIProviderConfig, client: openai.AsyncOpenAI) -> None:
        self._config = config
        self._client = client

    async def complete(self, body: Mapping[str, Any]) -> Completion:
        """Answer a request in one piece.

        Raises:
            InvalidRequestError: The API refuses the request itself.
            UpstreamError: The API failed, or answered something that is not a completion.
        """
        with self._translated():
            # the raw response: parsing into the client's models would only be undone
            raw = await self._client.chat.completions.with_raw_response.create(
                **self._arguments(body), extra_headers={"Accept": "application/json"}
            )
        try:
            answer = msgspec.json.decode(raw.content)
            answer["choices"][0]["message"]["role"]  # the least that makes a completion
        except (msgspec.DecodeError, KeyError, IndexError, TypeError) as error:
            raise UpstreamError(f"{self._config.model}: the answer is not a chat completion", "openai") from error
        return Completion(answer, self._config.model)

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[StreamPart, None]:
        """Answer a request piece by piece, the last chunk with the usage. Raises as `complete` does."""
        options = {"stream": True, "stream_options": {"include_usage": True}}
        with self._translated():
            stream = await self._client.chat.completions.create(**self._arguments({**body, **options}))
            async with stream:
                async for chunk in stream:
                    yield StreamPart([chunk.to_dict()], self._config.model)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _arguments(self, body: Mapping[str, Any]) -> dict[str, Any]:
        extra = {key: value for key, value in body.items() if key not in ("model", "messages", "stream")}
        stream = {"stream": True} if body.get("stream") else {}
        return {"model": self._config.model, "messages": body["messages"], "extra_body": extra, **stream}

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        import httpx2
        import openai

        model = self._config.model
        try:
            yield
        except openai.APITimeoutError as error:
            raise UpstreamTimeoutError(f"{model}: no answer in {self._config.timeout_s:g} s", "openai") from error
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            detail = error.body.get("message") if isinstance(error.body, dict) else None
            message = f"{model}: {detail or error.message}"
            # vLLM and others have no such code, but say it
            if error.code == "context_length_exceeded" or "maximum context length" in message:
                raise ContextLengthError(message, error.param) from error
            raise InvalidRequestError(message, error.param, error.code) from error
        except openai.APIStatusError as error:
            raise UpstreamError(f"{model}: status {error.status_code}: {error.message}", "openai") from error
        except openai.APIError as error:
            raise UpstreamError(f"{model}: {error.message}", "openai") from error
        except (httpx2.HTTPError, ValueError) as error:  # a stream that breaks off, or an event that is not JSON
            raise UpstreamError(f"{model}: {type(error).__name__}: {error}", "openai") from error
