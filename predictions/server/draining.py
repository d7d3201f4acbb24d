"""Whether this web process is ending: then it takes no new predictions and finishes those in flight."""

from threading import Event

NEW_PREDICTIONS = ("/v1/predict", "/async/v1/predict", "/v1/generate")

leaving = Event()
"""Set at SIGTERM: `/ready` answers 503 from then on."""
refusing = Event()
"""Set when new predictions are answered 503."""
