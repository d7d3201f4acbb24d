"""What is measured: each module has `run`, which yields figures, and the goals that they are held to."""
