"""What `rtaccel profile` is made of: profilers of others, one file each, all read into one table (kernels.py)."""
