"""An iris species classifier that works as a local predictor and as a small model server."""

from examples.iris.model import docs, predict

__all__ = ["docs", "predict"]
