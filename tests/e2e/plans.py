"""What PostgreSQL does to answer a statement."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from django.db import connection, transaction


@dataclass(frozen=True, slots=True)
class Plan:
    statement: str
    scans: list[str]
    """How each table was read: the kind of scan, and the index."""
    whole_tables: list[str]
    """The tables that were read from end to end."""
    rows_read: int
    """All rows that were looked at, those that did not fit included."""


def plan(statement: str) -> Plan:
    """Asks the server how it answers the statement, while it does; nothing is changed."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) {statement}")
        (told,) = cursor.fetchone()
        transaction.set_rollback(True)
    nodes = list(_nodes((told if isinstance(told, list) else json.loads(told))[0]["Plan"]))
    scans = [node for node in nodes if node["Node Type"].endswith("Scan") and "Relation Name" in node | _named(node)]
    return Plan(
        statement,
        [" ".join((node["Node Type"], node.get("Index Name", ""))).strip() for node in scans],
        [node["Relation Name"] for node in scans if node["Node Type"] == "Seq Scan"],
        sum(_rows_read(node) for node in scans),
    )


def _named(node: dict[str, Any]) -> dict[str, Any]:
    """A bitmap's part names only its index."""
    return {"Relation Name": ""} if "Index Name" in node else {}


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for below in node.get("Plans", ()):
        yield from _nodes(below)


def _rows_read(node: dict[str, Any]) -> int:
    looked_at = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
    return int(sum(node.get(name, 0) for name in looked_at) * node["Actual Loops"])
