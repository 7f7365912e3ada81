"""From a torch model to stages: capture, fold, match, calibrate; and swapping layers in place."""
