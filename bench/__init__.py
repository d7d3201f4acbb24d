"""The agent beside what its users would pick instead: `python -m bench` measures both, and says how they compare."""
