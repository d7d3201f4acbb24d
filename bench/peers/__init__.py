"""The peers: what is written in an afternoon with the usual libraries, doing the same work on the same table."""
