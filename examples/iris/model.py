"""The iris classifier as a predictor: checks the inputs, then names the species of each flower."""

import time
from functools import lru_cache
from typing import Any

from examples.iris.softmax import Weights, class_probabilities, most_likely, read_weights

MOST_ROWS = 10_000
LONGEST_DELAY = 300
LARGEST_MEASUREMENT = 1_000_000
PROBABILITY_DECIMALS = 6
EXAMPLE = [[5.1, 3.5, 1.4, 0.2]]

HOW_TO_SEND = f'Send "instances" as a list of flowers, each a list of four numbers in cm, such as {EXAMPLE}.'
HOW_TO_DELAY = f'Send "delay_seconds" as a number of seconds from 0 to {LONGEST_DELAY}, or leave it out.'

weights_in_use = lru_cache(maxsize=1)(read_weights)

STEP_SECONDS = 0.1


def predict(model_name: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """Return the species of each flower in `inputs["instances"]`, whatever name the model goes by.

    Each instance is sepal length, sepal width, petal length and petal width in centimetres. The optional
    `delay_seconds` waits that long before answering; other keys are left unread. Raises ValueError, with a
    sentence that says what to send, if the inputs cannot be used.
    """
    if not isinstance(inputs, dict):
        raise ValueError(f"The inputs are not a JSON object. {HOW_TO_SEND}")
    flowers = checked_instances(inputs)
    delay = checked_delay(inputs)
    wait(delay)
    weights = weights_in_use()
    return {"predictions": [prediction(weights, flower) for flower in flowers]}


def wait(seconds: float) -> None:
    """Sleeps in short steps, between which a canceled prediction can end."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, STEP_SECONDS))


def docs(model_name: str) -> dict[str, Any]:
    """Return a description of the inputs, each with its type and default, whatever the model's name."""
    return {
        "instances": {
            "type": "list of lists of 4 numbers: sepal length, sepal width, petal length, petal width, in cm",
            "description": f"The flowers to classify, {MOST_ROWS:,} at most.",
            "default": [list(flower) for flower in EXAMPLE],
        },
        "delay_seconds": {
            "type": f"number of seconds from 0 to {LONGEST_DELAY}",
            "description": "How long to wait before answering, to try out queueing, progress and cancelling.",
            "default": 0,
        },
    }


def prediction(weights: Weights, features: list[float]) -> dict[str, Any]:
    """Return the most likely species of one flower in centimetres and the probability of every species."""
    probabilities = class_probabilities(weights, features)
    number = most_likely(probabilities)
    return {
        "species": weights.classes[number],
        "class": number,
        "probabilities": {
            species: round(probability, PROBABILITY_DECIMALS)
            for species, probability in zip(weights.classes, probabilities, strict=True)
        },
    }


def checked_instances(inputs: dict[str, Any]) -> list[list[float]]:
    """Return the flowers in centimetres; raises ValueError if they are missing, too many or not numbers."""
    if "instances" not in inputs:
        raise ValueError(f'"instances" is missing. {HOW_TO_SEND}')
    instances = inputs["instances"]
    if not isinstance(instances, list):
        raise ValueError(f'"instances" is not a list. {HOW_TO_SEND}')
    if len(instances) > MOST_ROWS:
        raise ValueError(f'"instances" has {len(instances):,} flowers. Send at most {MOST_ROWS:,} in one request.')
    return [checked_flower(number, instance) for number, instance in enumerate(instances)]


def checked_flower(number: int, instance: object) -> list[float]:
    """Return one flower's measurements in centimetres; raises ValueError naming the instance at fault."""
    if not isinstance(instance, list):
        raise ValueError(f"instances[{number}] is not a list. {HOW_TO_SEND}")
    if len(instance) != len(EXAMPLE[0]):
        raise ValueError(f"instances[{number}] has {len(instance)} values, not four. {HOW_TO_SEND}")
    return [
        checked_number(
            value,
            -LARGEST_MEASUREMENT,
            LARGEST_MEASUREMENT,
            f"instances[{number}][{place}] is not a number from {-LARGEST_MEASUREMENT:,} to "
            f"{LARGEST_MEASUREMENT:,}. {HOW_TO_SEND}",
        )
        for place, value in enumerate(instance)
    ]


def checked_delay(inputs: dict[str, Any]) -> float:
    """Return the wait asked for in seconds, 0 if none is; raises ValueError if it is out of range."""
    return checked_number(inputs.get("delay_seconds", 0), 0, LONGEST_DELAY, HOW_TO_DELAY)


def checked_number(value: object, lowest: float, highest: float, complaint: str) -> float:
    """Return a number from lowest to highest as a float; raises ValueError with the complaint otherwise.

    True and false are not numbers here, although Python counts them as integers. NaN and infinity fall
    outside every range.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(complaint)
    if not lowest <= value <= highest:
        raise ValueError(complaint)
    return float(value)
