"""What the numbers mean: quantise, and the ranges that calibration picks. No kernel layout lives here."""
