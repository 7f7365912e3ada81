"""Cascades: models of growing cost for the same question, left as soon as an answer is sure enough."""
