"""Any model behind an OpenAI-compatible API: OpenAI, Azure, the compatible endpoints of others, vLLM, Ollama."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import msgspec

from app.errors import ContextLengthError, InvalidRequestError, UpstreamError, UpstreamTimeoutError
from app.providers.base import Quota, TargetConfig, named, pause_asked_for
from app.schema import Ability, Completion, Form, StreamPart

if TYPE_CHECKING:
    import openai

_REASONING = re.compile(r"(.*/)?(o\d|gpt-5)")


class OpenAIProviderConfig(TargetConfig):
    """A model behind an OpenAI-compatible API.

    Attributes:
        base_url: Of the API.
    """

    takes: ClassVar[frozenset[Ability | Form]] = frozenset((*get_args(Ability), *get_args(Form)))
    kind: Literal["openai"] = "openai"
    base_url: str = "https://api.openai.com/v1"
    api_key_env: str | None = "OPENAI_API_KEY"

    def build(self) -> OpenAIProvider:
        """Open a client; reads the key from the environment of the replica."""
        import openai

        key = os.environ[self.api_key_env] if self.api_key_env else "none"
        client = openai.AsyncOpenAI(
            base_url=self.base_url,
            api_key=key,
            timeout=openai.Timeout(self.timeout_s, connect=min(self.connect_timeout_s, self.timeout_s)),
            max_retries=0,  # the tier's own policy retries
        )
        return OpenAIProvider(self, client)


class OpenAIProvider:
    """A ChatProvider over the `openai` client. Bodies pass as they are but for the names of the model and its limit.

    Attributes:
        quota: What the API says is left of its rate limits.
    """

    def __init__(self, config: OpenAIProviderConfig, client: openai.AsyncOpenAI) -> None:
        self.quota = Quota()
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
        self.quota.seen(raw.headers)
        try:
            answer = msgspec.json.decode(raw.content)
            answer["choices"][0]["message"]["role"]  # the least that makes a completion
        except (msgspec.DecodeError, KeyError, IndexError, TypeError) as error:
            raise UpstreamError(f"{self._config.model}: the answer is not a chat completion", "openai") from error
        return Completion(answer, self._config.model)

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[StreamPart, None]:
        """Answer a request piece by piece, the last chunk with the usage. Raises as `complete` does.

        What comes from the network at once is one part: each that is passed on costs as much as a request.
        """
        options = {"stream": True, "stream_options": {"include_usage": True}}
        ended = False
        with self._translated():
            asking = self._client.chat.completions.with_streaming_response.create(
                **self._arguments({**body, **options}), extra_headers={"Accept": "text/event-stream"}
            )
            async with asking as response:
                self.quota.seen(response.headers)
                async for events in _events(response.iter_bytes()):
                    chunks = [self._chunk(event) for event in events if event != b"[DONE]"]
                    ended = ended or any(choice.get("finish_reason") for c in chunks for choice in c["choices"])
                    if chunks:
                        yield StreamPart(chunks, self._config.model)
        if not ended:
            raise UpstreamError(f"{self._config.model}: the stream ended before the answer did", "openai")

    def _chunk(self, event: bytes) -> dict[str, Any]:
        chunk = msgspec.json.decode(event)
        if isinstance(chunk, dict) and isinstance(chunk.get("choices"), list):
            return chunk
        error = chunk.get("error") if isinstance(chunk, dict) else None
        if isinstance(error, dict):
            raise UpstreamError(f"{self._config.model}: {named(error.get('code'), error.get('type'))}", "openai")
        raise UpstreamError(f"{self._config.model}: an event is not a chunk of a completion", "openai")

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()

    def _arguments(self, body: Mapping[str, Any]) -> dict[str, Any]:
        extra = {key: value for key, value in body.items() if key not in ("model", "messages", "stream")}
        if _REASONING.match(self._config.model) and "max_tokens" in extra:  # which these models refuse
            limit = extra.pop("max_tokens")
            extra.setdefault("max_completion_tokens", limit)
        stream = {"stream": True} if body.get("stream") else {}
        return {"model": self._config.model, "messages": body["messages"], "extra_body": extra, **stream}

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        import httpx2
        import openai

        model = self._config.model
        try:
            yield
        except (openai.APITimeoutError, httpx2.TimeoutException) as error:
            raise UpstreamTimeoutError(f"{model}: no answer in {self._config.timeout_s:g} s", "openai") from error
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            detail = error.body.get("message") if isinstance(error.body, dict) else None
            message = f"{model}: {detail or error.message}"
            # vLLM and others have no such code, but say it
            if error.code == "context_length_exceeded" or "maximum context length" in message:
                raise ContextLengthError(message, error.param) from error
            raise InvalidRequestError(message, error.param, error.code) from error
        except openai.APIStatusError as error:
            status = error.status_code
            pause_s = pause_asked_for(error.response.headers) if status in (429, 503) else None
            if status == 429 and pause_s is None:
                pause_s = 1.0
            passes = status in (408, 409, 429) or status >= 500
            what = f"status {status}: {named(error.code, error.type)}"
            raise UpstreamError(f"{model}: {what}", "openai", pause_s, passes) from error
        except openai.APIError as error:
            raise UpstreamError(f"{model}: {named(error.code, error.type, type(error).__name__)}", "openai") from error
        except (httpx2.HTTPError, ValueError) as error:  # a stream that breaks off, or an event that is not JSON
            raise UpstreamError(f"{model}: {type(error).__name__}", "openai") from error


async def _events(blocks: AsyncIterator[bytes]) -> AsyncGenerator[list[bytes], None]:
    """Read the data of server-sent events as they come; these APIs write that of an event on one line."""
    rest = b""
    async for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        if events := [line[5:].strip() for line in lines if line.startswith(b"data:")]:
            yield events
    if rest.startswith(b"data:"):
        yield [rest[5:].strip()]
