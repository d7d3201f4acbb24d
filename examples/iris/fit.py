"""Fits the iris classifier: run `python -m examples.iris.fit` to write weights.json again."""

import argparse
import csv
import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from examples.iris.softmax import (
    WEIGHTS_FILE,
    Accuracy,
    Weights,
    class_probabilities,
    linear_probabilities,
    most_likely,
    standardise,
    write_weights,
)

DATA_FILE = Path(__file__).with_name("data") / "iris.csv"
SEED = 1936
HELD_OUT_SHARE = 0.3
STEPS = 1000
LEARNING_RATE = 0.5
PENALTY = 0.001
DECIMALS = 6


@dataclass(frozen=True)
class Flower:
    """One flower: its four measurements in centimetres and its species."""

    features: tuple[float, ...]
    species: str


@dataclass(frozen=True)
class Table:
    """The flowers of a data file and the names of their measurements."""

    feature_names: list[str]
    flowers: list[Flower]

    @property
    def classes(self) -> list[str]:
        """The species, in the order in which they first appear."""
        return list(dict.fromkeys(flower.species for flower in self.flowers))


def read_table(path: Path = DATA_FILE) -> Table:
    """Read a CSV file whose last column is the species.

    Raises OSError if there is no such file and ValueError if a measurement is not a number.
    """
    with path.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    flowers = [Flower(tuple(float(value) for value in row[:-1]), row[-1]) for row in rows]
    return Table(header[:-1], flowers)


def split(table: Table, seed: int = SEED) -> tuple[list[Flower], list[Flower]]:
    """Return the flowers to fit and the flowers to hold out, with the same share held out of each species."""
    shuffler = random.Random(seed)
    train: list[Flower] = []
    held_out: list[Flower] = []
    for species in table.classes:
        flowers = [flower for flower in table.flowers if flower.species == species]
        shuffler.shuffle(flowers)
        count = round(len(flowers) * HELD_OUT_SHARE)
        held_out += flowers[:count]
        train += flowers[count:]
    return train, held_out


def mean(values: Sequence[float]) -> float:
    """Return the arithmetic mean of at least one value."""
    return math.fsum(values) / len(values)


def standard_deviation(values: Sequence[float]) -> float:
    """Return the population standard deviation of at least one value."""
    centre = mean(values)
    return math.sqrt(mean([(value - centre) ** 2 for value in values]))


def rounded(values: Iterable[float]) -> list[float]:
    """Return values rounded to the digits that weights.json keeps."""
    return [round(value, DECIMALS) for value in values]


def descend(rows: Sequence[Sequence[float]], targets: Sequence[int], class_count: int) -> list[list[float]]:
    """Return the fitted parameters, one list per class: a coefficient per column and then the intercept.

    Minimises the mean cross-entropy of standardised rows, plus a small penalty on the squared coefficients
    that keeps them finite for a species a straight line can tell apart, by gradient descent from zero.
    """
    columns = list(zip(*rows, strict=True))
    coefficients = [[0.0] * len(columns) for _ in range(class_count)]
    intercepts = [0.0] * class_count
    for _ in range(STEPS):
        guesses = [linear_probabilities(row, coefficients, intercepts) for row in rows]
        for number in range(class_count):
            errors = [guess[number] - (target == number) for guess, target in zip(guesses, targets, strict=True)]
            slopes = [mean([error * value for error, value in zip(errors, column, strict=True)]) for column in columns]
            coefficients[number] = [
                weight - LEARNING_RATE * (slope + PENALTY * weight)
                for weight, slope in zip(coefficients[number], slopes, strict=True)
            ]
            intercepts[number] -= LEARNING_RATE * mean(errors)
    return [[*row, intercept] for row, intercept in zip(coefficients, intercepts, strict=True)]


def accuracy(weights: Weights, flowers: Sequence[Flower]) -> float:
    """Return the share of flowers, from 0 to 1, whose most likely class is their species."""
    right = sum(
        weights.classes[most_likely(class_probabilities(weights, flower.features))] == flower.species
        for flower in flowers
    )
    return right / len(flowers)


def unmeasured_weights(table: Table, train: Sequence[Flower]) -> Weights:
    """Return weights fitted to the train flowers, with an accuracy of zero still to be filled in."""
    columns = list(zip(*(flower.features for flower in train), strict=True))
    means = rounded(mean(column) for column in columns)
    scales = rounded(standard_deviation(column) for column in columns)
    rows = [standardise(flower.features, means, scales) for flower in train]
    targets = [table.classes.index(flower.species) for flower in train]
    parameters = descend(rows, targets, len(table.classes))
    return Weights(
        classes=table.classes,
        feature_names=table.feature_names,
        means=means,
        scales=scales,
        coefficients=[rounded(row[:-1]) for row in parameters],
        intercepts=rounded(row[-1] for row in parameters),
        accuracy=Accuracy(train=0.0, held_out=0.0),
    )


def fit(table: Table, seed: int = SEED) -> Weights:
    """Return weights fitted to a table, with the accuracy that these rounded weights reach."""
    train, held_out = split(table, seed)
    weights = unmeasured_weights(table, train)
    measured = Accuracy(
        train=round(accuracy(weights, train), DECIMALS),
        held_out=round(accuracy(weights, held_out), DECIMALS),
    )
    return replace(weights, accuracy=measured)


def main(arguments: Sequence[str] | None = None) -> None:
    """Fit the classifier, print its accuracy and write its weights; raises OSError if a file is unusable."""
    parser = argparse.ArgumentParser(prog="python -m examples.iris.fit", description=__doc__)
    parser.add_argument("--output", type=Path, default=WEIGHTS_FILE, help="where to write the weights")
    output: Path = parser.parse_args(arguments).output
    table = read_table()
    weights = fit(table)
    write_weights(weights, output)
    train, held_out = split(table)
    print(f"Train accuracy:    {weights.accuracy.train:.3f} on {len(train)} flowers")
    print(f"Held-out accuracy: {weights.accuracy.held_out:.3f} on {len(held_out)} flowers")
    print(f"Wrote {output.name}")


if __name__ == "__main__":
    main()
