"""What a prediction's body may be, told in two ways that must not part."""

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from predictions.api.serializers import PredictionSerializer, is_plain

NAMES = st.one_of(st.text("aZ0._:/@- \t\u00e9\0", max_size=6), st.sampled_from(["m" * 100, "m" * 101, "m" * 201]))
VALUES = st.one_of(NAMES, st.none(), st.integers(), st.booleans(), st.just({}), st.just({"n": 1}), st.just([]))
KEYS = ["model_name", "inputs", "model_version"]
BODIES = st.one_of(st.dictionaries(st.sampled_from([*KEYS, "other"]), VALUES), VALUES)


@given(body=BODIES)
@example(body={"model_name": "iris", "inputs": {"n": 1}, "model_version": "2"})
@example(body={"model_name": "iris\n", "inputs": {}})
def test_what_is_told_plain_the_serializer_takes_as_it_is(body: Any) -> None:
    if is_plain(body):
        assert PredictionSerializer().run_validation(body) == {"model_version": "", **body}


def test_what_is_sent_most_is_plain() -> None:
    assert is_plain({"model_name": "org/llama-3.1@v2", "inputs": {"prompt": "Once"}})
    assert is_plain({"model_name": "iris", "inputs": {}, "model_version": "1.0"})
