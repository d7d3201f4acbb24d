"""Example models that the serving agent can run or call without any other software."""
