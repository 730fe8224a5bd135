"""Providers: one module each; the union below is what a tier's `targets` may name."""

from app.providers.openai import OpenAIProvider, OpenAIProviderConfig

ProviderConfig = OpenAIProviderConfig

__all__ = ["OpenAIProvider", "OpenAIProviderConfig", "ProviderConfig"]
