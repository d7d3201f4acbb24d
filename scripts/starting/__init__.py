"""What scripts/start.py is made of."""
