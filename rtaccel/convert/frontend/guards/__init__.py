"""What a captured graph takes for granted: sizes for which it is the model, and numbers that decided during capture."""
