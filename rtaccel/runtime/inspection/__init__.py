"""What is seen of a compiled model: its stages and bytes, the time of each stage where it stands, the roofline of the machine."""
