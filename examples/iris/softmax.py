"""The softmax regression model: its weights, their JSON file and the class probabilities they give."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

WEIGHTS_FILE = Path(__file__).with_name("weights.json")


@dataclass(frozen=True)
class Accuracy:
    """The share of flowers classified correctly, from 0 to 1, on the rows fitted and the rows held out."""

    train: float
    held_out: float


@dataclass(frozen=True)
class Weights:
    """A fitted classifier.

    `means` and `scales` are in centimetres, one per feature. `coefficients` has one row per class, each with
    one number per standardised feature, and `intercepts` has one number per class.
    """

    classes: list[str]
    feature_names: list[str]
    means: list[float]
    scales: list[float]
    coefficients: list[list[float]]
    intercepts: list[float]
    accuracy: Accuracy


def standardise(features: Sequence[float], means: Sequence[float], scales: Sequence[float]) -> list[float]:
    """Return measurements in centimetres as numbers of scales above the mean."""
    return [(value - mean) / scale for value, mean, scale in zip(features, means, scales, strict=True)]


def softmax(scores: Sequence[float]) -> list[float]:
    """Return probabilities, which add up to 1, in proportion to the exponentials of the scores."""
    highest = max(scores)
    exponentials = [math.exp(score - highest) for score in scores]
    total = math.fsum(exponentials)
    return [exponential / total for exponential in exponentials]


def linear_probabilities(
    standardised: Sequence[float], coefficients: Sequence[Sequence[float]], intercepts: Sequence[float]
) -> list[float]:
    """Return the probability of each class for one standardised flower.

    The sums use `math.fsum`, which is exact, so that every Python version gives the same digits.
    """
    return softmax(
        [
            math.fsum([intercept, *(weight * value for weight, value in zip(row, standardised, strict=True))])
            for row, intercept in zip(coefficients, intercepts, strict=True)
        ]
    )


def class_probabilities(weights: Weights, features: Sequence[float]) -> list[float]:
    """Return the probability of each class for one flower measured in centimetres."""
    standardised = standardise(features, weights.means, weights.scales)
    return linear_probabilities(standardised, weights.coefficients, weights.intercepts)


def most_likely(probabilities: Sequence[float]) -> int:
    """Return the number of the class with the highest probability, the first of them if several tie."""
    return max(range(len(probabilities)), key=probabilities.__getitem__)


def read_weights(path: Path = WEIGHTS_FILE) -> Weights:
    """Read fitted weights; raises OSError if there is no such file and TypeError if it lacks a value."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    accuracy = Accuracy(**stored.pop("accuracy"))
    return Weights(**stored, accuracy=accuracy)


def write_weights(weights: Weights, path: Path = WEIGHTS_FILE) -> None:
    """Write fitted weights as JSON; raises OSError if the file cannot be written."""
    path.write_text(json.dumps(asdict(weights), indent=2) + "\n", encoding="utf-8")
