"""Embedders: one module each; the union below is what a configuration may name."""

from app.embedding.onnx import OnnxEmbedder, OnnxEmbedderConfig

EmbedderConfig = OnnxEmbedderConfig

__all__ = ["EmbedderConfig", "OnnxEmbedder", "OnnxEmbedderConfig"]
