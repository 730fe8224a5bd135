"""`POST /v1/embeddings`: the translation, the names of the encoder, and the official client over HTTP."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np
import openai
import pytest
from numpy.typing import NDArray

from app.dialects import EmbeddingsRequest
from app.embedding import EmbeddingsConfig, ServedEmbedder
from app.errors import CacheUnavailableError, InvalidRequestError, ModelNotFoundError
from tests.fakes import FakeEmbedder, FakeProvider
from tests.serving import gateway

Providers = dict[str, FakeProvider]


def read(max_inputs: int = 4, **fields: Any) -> EmbeddingsRequest:
    return EmbeddingsRequest(json.dumps({"model": "minilm", "input": "hi", **fields}).encode(), max_inputs)


@pytest.mark.parametrize(
    ("fields", "param", "advice"),
    [
        ({"input": [1, 2]}, "input[0]", "not tokens"),
        ({"input": [[1, 2]]}, "input[0]", "not tokens"),
        ({"input": []}, "input", "at least one text"),
        ({"input": ["a"] * 5}, "input", "at most 4"),
        ({"encoding_format": "int8"}, "encoding_format", "Invalid"),
        ({"invented_tomorrow": 1}, "invented_tomorrow", "Leave it out"),
    ],
)
def test_what_cannot_be_embedded_is_refused_by_name(fields: dict[str, Any], param: str, advice: str) -> None:
    with pytest.raises(InvalidRequestError, match=advice) as caught:
        read(**fields)
    assert caught.value.param == param


class _OneVector:
    """An Embedder of one vector for every text."""

    space = "minilm-int8-256"

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.tile(np.array([0.6, 0.8], np.float32), (len(texts), 1))

    def measure(self, texts: Sequence[str]) -> tuple[NDArray[np.float32], int]:
        return self.embed(texts), 7


@pytest.mark.parametrize("name", ["minilm", "minilm-int8-256", "text-embedding-3-small"])
async def test_the_encoder_is_called_by_its_name_by_its_space_or_by_an_alias(name: str) -> None:
    names = EmbeddingsConfig(models=("text-embedding-3-small",)).names("bundled:minilm")
    vectors = await ServedEmbedder(_OneVector(), names).embed(name, ["a", "b"])
    assert (vectors.space, vectors.tokens) == ("minilm-int8-256", 7)
    np.testing.assert_array_equal(np.frombuffer(vectors.rows[1], "<f4"), np.array([0.6, 0.8], np.float32))


async def test_another_name_is_refused_with_those_there_are() -> None:
    served = ServedEmbedder(_OneVector(), EmbeddingsConfig().names("/models/e5"))
    with pytest.raises(ModelNotFoundError, match=r"Use one of: e5, minilm-int8-256\."):
        await served.embed("text-embedding-3-small", ["a"])


# The official client, over HTTP


@pytest.fixture
def embedder() -> FakeEmbedder:
    return FakeEmbedder()


@pytest.fixture
async def client(providers: Providers, embedder: FakeEmbedder) -> AsyncIterator[openai.AsyncOpenAI]:
    async with (
        gateway(None, providers, embedder=embedder) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client,
    ):
        yield client


@pytest.mark.parametrize(
    "options", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}, {"dimensions": 2}]
)
async def test_the_client_gets_a_vector_for_each_text(client: openai.AsyncOpenAI, options: dict[str, Any]) -> None:
    answer = await client.embeddings.create(model="minilm", input=["a", "two words"], **options)
    vectors: list[Any] = [row.embedding for row in answer.data]
    if options.get("encoding_format") == "base64":  # who asks for it gets it; by default the client decodes it
        assert vectors == ["AACAPwAAgD8=", "AAAQQQAAgD8="]
    else:
        assert [list(vector) for vector in vectors] == [[1, 1], [9, 1]]
    assert [row.index for row in answer.data] == [0, 1]
    assert (answer.model, answer.usage.prompt_tokens, answer.usage.total_tokens) == ("fake", 3, 3)


async def test_the_client_may_send_one_text(client: openai.AsyncOpenAI, embedder: FakeEmbedder) -> None:
    answer = await client.embeddings.create(model="minilm", input="hello")
    assert (len(answer.data), embedder.texts) == (1, ["hello"])


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"model": "text-embedding-3-small"}, openai.NotFoundError, "model"),
        ({"dimensions": 3}, openai.BadRequestError, "dimensions"),
        ({"input": [[1, 2]]}, openai.BadRequestError, "input[0]"),
    ],
)
async def test_the_client_gets_errors_of_its_own_kind(
    client: openai.AsyncOpenAI, fields: dict[str, Any], error: type[openai.APIStatusError], param: str
) -> None:
    with pytest.raises(error) as caught:
        await client.embeddings.create(**{"model": "minilm", "input": "hi", **fields})
    assert caught.value.param == param


async def test_an_encoder_that_does_not_answer_is_a_503(client: openai.AsyncOpenAI, embedder: FakeEmbedder) -> None:
    embedder.error = CacheUnavailableError("the encoder did not answer: TimeoutError")
    with pytest.raises(openai.InternalServerError) as caught:
        await client.embeddings.create(model="minilm", input="hi")
    assert (caught.value.status_code, caught.value.response.headers["retry-after"]) == (503, "5")


async def test_without_a_cache_there_is_no_encoder(providers: Providers) -> None:
    async with (
        gateway(None, providers) as url,
        openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0) as client,
    ):
        with pytest.raises(openai.NotFoundError, match="set `redis`"):
            await client.embeddings.create(model="minilm", input="hi")
