"""Networks of the literature, written from their layer tables, with random weights: for time, not for accuracy."""
