"""A model over two machines: what each half takes, what lies on the wire, and where to cut."""
