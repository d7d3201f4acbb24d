"""The parts of scripts/start.py."""
