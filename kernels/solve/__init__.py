"""Systems of linear equations, inverses and factors of small matrices."""
