"""Checks the iris example: its data, its fit and its predictions."""

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from examples.iris import docs, fit, model, predict, softmax
from tests.helpers.iris import README, ROOT, refusal_of

SETOSA = [5.1, 3.5, 1.4, 0.2]
VERSICOLOR = [6.0, 2.7, 4.2, 1.3]
VIRGINICA = [6.7, 3.1, 5.8, 2.2]


# The page


def test_the_inputs_of_the_page_are_answered_as_it_shows() -> None:
    inputs, answer = (json.loads(text) for text in re.findall(r"```json\n(.*?)```", README, re.DOTALL))
    assert predict("iris", inputs) == answer


def test_the_files_of_the_page_are_there() -> None:
    files = re.findall(r"^\| `([\w./]+)` \|", README, re.MULTILINE)
    assert files
    assert [name for name in files if not (ROOT / "examples/iris" / name).is_file()] == []


@pytest.mark.parametrize("module", ["examples.iris", "examples.iris.server", "examples.iris.fit"])
def test_nothing_but_the_standard_library_is_needed(module: str) -> None:
    """-I and -S leave out the environment and the installed packages."""
    program = f"import sys; sys.path.append({str(ROOT)!r}); import {module}"
    subprocess.run([sys.executable, "-I", "-S", "-c", program], check=True)


# The data and the fit


def test_the_data_is_fishers_table_of_fifty_flowers_of_each_species() -> None:
    table = fit.read_table()
    published = {
        "setosa": [5.006, 3.428, 1.462, 0.246],
        "versicolor": [5.936, 2.770, 4.260, 1.326],
        "virginica": [6.588, 2.974, 5.552, 2.026],
    }
    assert table.classes == list(published)
    for species, means in published.items():
        rows = [flower.features for flower in table.flowers if flower.species == species]
        assert len(rows) == 50
        assert [fit.mean(column) for column in zip(*rows, strict=True)] == pytest.approx(means)


def test_the_split_holds_out_the_same_number_of_each_species_and_loses_no_flower() -> None:
    table = fit.read_table()
    train, held_out = fit.split(table)
    for species in table.classes:
        assert sum(flower.species == species for flower in train) == 35
        assert sum(flower.species == species for flower in held_out) == 15
    assert sorted(map(repr, train + held_out)) == sorted(map(repr, table.flowers))


def test_another_seed_splits_the_flowers_differently() -> None:
    table = fit.read_table()
    assert fit.split(table, seed=1) != fit.split(table, seed=2)


def test_refitting_gives_the_committed_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit.main(["--output", str(tmp_path / "weights.json")])
    assert (tmp_path / "weights.json").read_text() == softmax.WEIGHTS_FILE.read_text()
    printed = capsys.readouterr().out
    assert "Train accuracy:    0.981 on 105 flowers" in printed
    assert "Held-out accuracy: 0.956 on 45 flowers" in printed


def test_the_weights_are_standardised_by_the_flowers_that_were_fitted() -> None:
    weights = softmax.read_weights()
    train, _ = fit.split(fit.read_table())
    rows = [softmax.standardise(flower.features, weights.means, weights.scales) for flower in train]
    for column in zip(*rows, strict=True):
        assert fit.mean(column) == pytest.approx(0, abs=1e-5)
        assert fit.standard_deviation(column) == pytest.approx(1, abs=1e-5)


def test_held_out_flowers_are_recognised_as_often_as_the_weights_file_says() -> None:
    _, held_out = fit.split(fit.read_table())
    answers = predict("iris", {"instances": [list(flower.features) for flower in held_out]})["predictions"]
    right = sum(a["species"] == flower.species for a, flower in zip(answers, held_out, strict=True))
    assert right / len(held_out) >= 0.93
    assert right / len(held_out) == pytest.approx(softmax.read_weights().accuracy.held_out, abs=1e-6)


# Predictions


def test_a_flower_from_each_species_is_recognised() -> None:
    answers = predict("iris", {"instances": [SETOSA, VERSICOLOR, VIRGINICA]})["predictions"]
    assert [a["species"] for a in answers] == ["setosa", "versicolor", "virginica"]
    assert [a["class"] for a in answers] == [0, 1, 2]


def test_the_probabilities_add_up_to_one_and_the_species_has_the_highest() -> None:
    for answer in predict("iris", {"instances": [SETOSA, VERSICOLOR, VIRGINICA]})["predictions"]:
        probabilities = answer["probabilities"]
        assert list(probabilities) == ["setosa", "versicolor", "virginica"]
        assert math.fsum(probabilities.values()) == pytest.approx(1, abs=1e-5)
        assert max(probabilities, key=probabilities.__getitem__) == answer["species"]


def test_whole_numbers_are_measurements_too() -> None:
    assert predict("iris", {"instances": [[5, 3, 1, 0]]})["predictions"][0]["species"] == "setosa"


def test_the_largest_measurements_still_give_finite_probabilities() -> None:
    answers = predict("iris", {"instances": [[1e6, -1e6, 1e6, -1e6], [-1e6, 1e6, -1e6, 1e6]]})
    for answer in answers["predictions"]:
        assert math.fsum(answer["probabilities"].values()) == pytest.approx(1)
    json.dumps(answers, allow_nan=False)


def test_no_flowers_give_no_predictions() -> None:
    assert predict("iris", {"instances": []}) == {"predictions": []}


def test_ten_thousand_flowers_are_answered_and_one_more_is_refused() -> None:
    assert len(predict("iris", {"instances": [SETOSA] * 10_000})["predictions"]) == 10_000
    assert "at most 10,000" in refusal_of({"instances": [SETOSA] * 10_001})


def test_any_model_name_and_unknown_keys_are_accepted_and_the_inputs_stay_as_they_were() -> None:
    inputs = {"instances": [SETOSA], "upload_webhook": "https://example.org/", "colour": "blue"}
    before = json.dumps(inputs)
    assert predict("another", inputs) == predict("iris", {"instances": [SETOSA]})
    assert json.dumps(inputs) == before


@pytest.mark.parametrize(
    ("inputs", "fault"),
    [
        ({}, '"instances" is missing'),
        ({"instances": "5.1,3.5,1.4,0.2"}, '"instances" is not a list'),
        ({"instances": None}, '"instances" is not a list'),
        ({"instances": {"0": SETOSA}}, '"instances" is not a list'),
        ({"instances": SETOSA}, "instances[0] is not a list"),
        ({"instances": [SETOSA, SETOSA[:3]]}, "instances[1] has 3 values, not four"),
        ({"instances": [[*SETOSA, 1.0]]}, "instances[0] has 5 values, not four"),
        ({"instances": [[]]}, "instances[0] has 0 values, not four"),
        ({"instances": [[5.1, 3.5, 1.4, True]]}, "instances[0][3] is not a number"),
        ({"instances": [[5.1, "3.5", 1.4, 0.2]]}, "instances[0][1] is not a number"),
        ({"instances": [[None, 3.5, 1.4, 0.2]]}, "instances[0][0] is not a number"),
        ({"instances": [[5.1, 3.5, math.nan, 0.2]]}, "instances[0][2] is not a number"),
        ({"instances": [[5.1, 3.5, math.inf, 0.2]]}, "instances[0][2] is not a number"),
        ({"instances": [[5.1, 3.5, -math.inf, 0.2]]}, "instances[0][2] is not a number"),
        ({"instances": [[5.1, 3.5, 10**400, 0.2]]}, "instances[0][2] is not a number"),
        ([SETOSA], "not a JSON object"),
    ],
)
def test_unusable_instances_are_refused_with_the_fault_and_what_to_send(inputs: Any, fault: str) -> None:
    refusal = refusal_of(inputs)
    assert fault in refusal
    assert "list of four numbers in cm, such as [[5.1, 3.5, 1.4, 0.2]]" in refusal


@pytest.mark.parametrize("delay", [-1, 300.1, math.nan, math.inf, True, "5", None, [1]])
def test_an_unusable_delay_is_refused_with_what_to_send(delay: object) -> None:
    assert "number of seconds from 0 to 300" in refusal_of({"instances": [SETOSA], "delay_seconds": delay})


class Clock:
    """Time that passes by sleeping alone."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waits: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


@pytest.mark.parametrize("delay", [0.25, 7, 300])
def test_a_delay_is_waited_for_before_the_answer(delay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(model, "time", clock)
    answer = predict("iris", {"instances": [SETOSA], "delay_seconds": delay})
    assert clock.now == pytest.approx(delay)
    assert max(clock.waits) <= model.STEP_SECONDS
    assert answer["predictions"][0]["species"] == "setosa"


def test_bad_instances_are_refused_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(model, "time", clock)
    refusal_of({"instances": [[1]], "delay_seconds": 300})
    assert clock.waits == []


def test_the_documented_defaults_are_inputs_that_work() -> None:
    described = docs("iris")
    assert set(described) == {"instances", "delay_seconds"}
    assert all(isinstance(entry["type"], str) for entry in described.values())
    defaults = {name: entry["default"] for name, entry in described.items()}
    assert predict("iris", defaults)["predictions"][0]["species"] == "setosa"


def test_changing_the_described_default_does_not_change_the_next_description() -> None:
    docs("iris")["instances"]["default"][0].clear()
    assert docs("iris")["instances"]["default"] == [SETOSA]
