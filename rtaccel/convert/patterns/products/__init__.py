"""Rules for products: layers of rows, matrices that are computed, block-diagonal layers."""
