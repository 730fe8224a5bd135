"""Embedders: one module each; the union below is what a configuration may name."""

from typing import Annotated, Any

from pydantic import Discriminator, Tag

from app.embedding.onnx import OnnxEmbedder, OnnxEmbedderConfig, SentenceTransformersConfig
from app.embedding.openai import OpenAIEmbedder, OpenAIEmbedderConfig
from app.embedding.served import EmbeddingsConfig, ServedEmbedder


def _kind(value: Any) -> Any:
    """Read the kind; `onnx` where none is named."""
    return value.get("kind", "onnx") if isinstance(value, dict) else getattr(value, "kind", None)


EmbedderConfig = Annotated[
    Annotated[OnnxEmbedderConfig, Tag("onnx")]
    | Annotated[SentenceTransformersConfig, Tag("sentence-transformers")]
    | Annotated[OpenAIEmbedderConfig, Tag("openai")],
    Discriminator(_kind),
]

__all__ = [
    "EmbedderConfig",
    "EmbeddingsConfig",
    "OnnxEmbedder",
    "OnnxEmbedderConfig",
    "OpenAIEmbedder",
    "OpenAIEmbedderConfig",
    "SentenceTransformersConfig",
    "ServedEmbedder",
]
