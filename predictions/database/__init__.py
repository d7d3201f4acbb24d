"""The agent's database connections.

`cursors` chooses the connection of a statement, `batcher` writes for several callers at once. On PostgreSQL,
`postgresql` limits how long a process waits and `prepared` sends statements; `sqlite3` is Django's backend with cursors
that retry. `errors` translates what fails.
"""
