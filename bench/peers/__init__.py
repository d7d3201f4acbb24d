"""The peers: the same work on the same table, written in an afternoon with the usual libraries."""
