"""Classifiers: one module each; the union below is what a configuration may name."""

from app.classifier.encoder import ClassifierConfig, EncoderClassifier

__all__ = ["ClassifierConfig", "EncoderClassifier"]
