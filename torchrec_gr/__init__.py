"""Generative user-sequence models for click-through-rate ranking, as a TorchRec extension."""

__version__ = "0.1.0"
