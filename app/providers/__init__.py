"""Providers: one module each; the union below is what a tier's `targets` may name."""

from typing import Annotated, Any

from pydantic import Discriminator, Tag

from app.providers.anthropic import AnthropicProvider, AnthropicProviderConfig
from app.providers.openai import OpenAIProvider, OpenAIProviderConfig


def _kind(value: Any) -> Any:
    """Read the kind; `openai` where none is named."""
    return value.get("kind", "openai") if isinstance(value, dict) else getattr(value, "kind", None)


ProviderConfig = Annotated[
    Annotated[OpenAIProviderConfig, Tag("openai")] | Annotated[AnthropicProviderConfig, Tag("anthropic")],
    Discriminator(_kind),
]

__all__ = [
    "AnthropicProvider",
    "AnthropicProviderConfig",
    "OpenAIProvider",
    "OpenAIProviderConfig",
    "ProviderConfig",
]
