"""The models of a first run: LOCAL_PREDICTOR=examples:models."""

from examples import iris, text

models = {"iris": iris.predict, "text": text.generate}
