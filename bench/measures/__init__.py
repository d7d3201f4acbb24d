"""The measures: in each module `run` yields figures, and MEASURE names their goals."""
