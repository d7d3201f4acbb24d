"""A predictor that breaks the platform around it, which causes an unexpected error."""

from platforms import local


def predict(model_name: str, inputs: object) -> object:
    local._as_json = None  # type: ignore[assignment]
    return inputs
