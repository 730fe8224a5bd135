"""Tierwise: the traffic controller in front of expensive language models, in plain Python."""

__version__ = "0.1.0"
