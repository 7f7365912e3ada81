"""Rules for calls on images and sequences: convolutions, pooling, interpolation.

`geometry` finds images with a row of channels for each position, `windows` what windows over them read. The others are rules.
"""
