"""What each family of rows measures on a card, the models that it measures, and how calls are timed."""
