"""A value with other elements joined into it by computed indices."""
