"""Builds the nodes of a captured graph: `values` keeps what is stored and where it lies, `builder` walks the calls."""
