"""What kernels of streams share: how many steps a stream has made."""
