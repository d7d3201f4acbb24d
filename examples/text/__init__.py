"""A small text generator that streams its words."""

from examples.text.model import docs, generate

__all__ = ["docs", "generate"]
