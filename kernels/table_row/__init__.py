"""The row of a constant table at the step that a stream is at."""
