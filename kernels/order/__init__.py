"""Order along lines of a value: where the largest element is, the largest few, all of them sorted."""
