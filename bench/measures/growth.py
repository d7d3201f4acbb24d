"""Sync, submit, drain and pick-up with a thousand, a hundred thousand and a million ended tasks on record."""

from collections.abc import Iterator

from bench.figures import AGENT, Bench, Figure, Goal, Measure
from bench.measures import pickup
from bench.queues import drain, warm_worker
from bench.servers import predictions, run_load, submissions

ROWS = {"1 k": 1_000, "100 k": 100_000, "1 M": 1_000_000}
QUANTITIES = ("ms a sync prediction", "ms a submission", "ms a drained task", "ms to pick up, p50")
SPREAD = "{quantity}: with {rows} rows ÷ with 1 k"
# Two days of tasks as the agent writes them, by four models and a hundred users.
_INTO = """
INSERT INTO predictions_task (id, agent, user_id, model_name, model_version, platform, status, inputs, outputs,
  error_info, running_time, queue_num, queue_id, attempt, run_id, request_id, traceparent, upstream_id,
  upstream_cancel, unreported, created_at, started_at, ended_at, updated_at)
SELECT {id}, 'default', 'user-' || n % 100, 'model-' || n % 4, '', 'k8s',
  CASE WHEN n % 20 = 0 THEN 'failed' ELSE 'succeeded' END, '{{"n":1}}', '{{"n":1}}', '', 0.1, 0, '', 1, '',
  id, '', '', '', {false}, at, at, at, at
"""
_FILL = {
    "postgresql": _INTO.replace("{id}", "id::uuid::text").replace("{false}", "false")
    + """
FROM (SELECT n, now() - n * interval '172800 seconds' / {count} AS at FROM generate_series(1, {count}) n) made,
  LATERAL (SELECT (extract(epoch FROM at) * 1000)::bigint AS ms) clock,
  LATERAL (SELECT lpad(to_hex(ms), 12, '0') || substr(md5(n::text), 13) AS id) named
""",
    "sqlite": _INTO.replace(
        "{id}",
        "substr(id, 1, 8) || '-' || substr(id, 9, 4) || '-' || substr(id, 13, 4)"
        " || '-' || substr(id, 17, 4) || '-' || substr(id, 21)",
    ).replace("{false}", "0")
    + """
FROM (
  SELECT n, strftime('%Y-%m-%d %H:%M:%f', unix, 'unixepoch') AS at,
    printf('%012x', unix * 1000) || lower(hex(randomblob(10))) AS id
  FROM (
    WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < {count})
    SELECT n, (julianday('now') - 2440587.5) * 86400 - n * 172800.0 / {count} AS unix FROM numbers
  )
)
""",
}
_TIDY = {"postgresql": "VACUUM ANALYZE predictions_task", "sqlite": "ANALYZE predictions_task"}


def run(bench: Bench) -> Iterator[Figure]:
    sizes = {"1 k": 1_000, "100 k": 100_000} if bench.quick else ROWS
    for number in range(bench.rounds):
        few: dict[str, float] = {}
        for rows, count in sizes.items():
            for quantity, value in _measured(bench, count).items():
                yield Figure(quantity=f"{quantity}, {rows} rows", contestant=AGENT, round=number, value=value)
                few.setdefault(quantity, value)
                if rows != "1 k":
                    spread = SPREAD.format(quantity=quantity, rows=rows)
                    yield Figure(quantity=spread, contestant=AGENT, round=number, value=value / few[quantity])


def _measured(bench: Bench, rows: int) -> dict[str, float]:
    told: dict[str, float] = {}
    bench.contestants.stores.clear()
    _grow(bench, rows)
    with bench.contestants.web(AGENT) as web:
        run_load(predictions(web.port, connections=32, seconds=1))
        answer = run_load(predictions(web.port, connections=32, seconds=bench.seconds(5)))
        told[QUANTITIES[0]] = answer["seconds"] / answer["answered"] * 1000
        run_load(submissions(web.port, connections=16, seconds=1))
        answer = run_load(submissions(web.port, connections=16, seconds=bench.seconds(5)))
        told[QUANTITIES[1]] = answer["seconds"] / answer["answered"] * 1000
    count = bench.count(3200)
    with warm_worker(bench, AGENT, 64) as process:
        _grow(bench, rows)
        told[QUANTITIES[2]] = drain(bench, AGENT, process, count, already=rows).seconds / count * 1000
    with warm_worker(bench, AGENT, 8):
        _grow(bench, rows)
        median = pickup.QUANTITY.format("p50")
        told[QUANTITIES[3]] = next(f.value for f in pickup.of(bench, AGENT, 0) if f.quantity == median)
    return told


def _grow(bench: Bench, rows: int) -> None:
    stores = bench.contestants.stores
    stores.agent.execute(_FILL[stores.kind].format(count=rows))
    stores.agent.execute(_TIDY[stores.kind])


MEASURE = Measure(
    "growth",
    "The same with many tasks on record",
    run,
    goals=tuple(
        Goal(quantity=SPREAD.format(quantity=quantity, rows=rows), at_most=1.2)
        for quantity in QUANTITIES
        for rows in ("100 k", "1 M")
    ),
)
