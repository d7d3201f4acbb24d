"""Whether this web process is ending: then it takes no new predictions and finishes those in flight."""

NEW_PREDICTIONS = ("/v1/predict", "/async/v1/predict", "/v1/generate")

_leaving = _refusing = False


def leave() -> None:
    """SIGTERM has come: `/ready` answers 503 from now on."""
    global _leaving
    _leaving = True


def refuse() -> None:
    """New predictions are answered 503 from now on."""
    global _refusing
    _refusing = True


def is_leaving() -> bool:
    return _leaving


def is_refusing() -> bool:
    return _refusing
