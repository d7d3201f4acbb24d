"""A predictor that breaks the platform around it, so that what follows is a defect nobody foresaw."""

from platforms import local


def predict(model_name: str, inputs: object) -> object:
    local._as_json = None  # type: ignore[assignment]
    return inputs
