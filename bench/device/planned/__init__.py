"""What is measured on a card, kind by kind: rows of the table."""
