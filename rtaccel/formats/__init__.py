"""What the numbers mean: quantize, and the ranges that calibration picks. No kernel layout lives here."""
