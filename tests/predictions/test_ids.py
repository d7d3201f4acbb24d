"""New ids: UUIDs that tell when they were made, and nothing else."""

import time
import uuid

import pytest

from predictions import ids
from predictions.ids import new_id
from predictions.models import Task


def test_an_id_is_a_uuid_of_version_7_that_begins_with_its_time() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid.UUID(Task().pk)
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert before <= made.int >> 80 <= time.time_ns() // 1_000_000


def test_later_ids_are_greater_and_those_of_one_moment_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for milliseconds in (0, 1, 1_796_000_000_000, 1_796_000_000_001, 2**48 - 1):
        monkeypatch.setattr(ids.time, "time_ns", lambda at=milliseconds: at * 1_000_000)
        made += [sorted(str(new_id()) for _ in range(1000))]
    assert made == sorted(made)
    assert all(len(set(of_one_moment)) == 1000 for of_one_moment in made)


def test_all_of_an_id_but_its_time_and_kind_is_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids.time, "time_ns", lambda: 0)
    varies = 0
    first = new_id().int
    for _ in range(1000):
        varies |= first ^ new_id().int
    assert varies.bit_count() == 74
