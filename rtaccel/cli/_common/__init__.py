"""What several verbs share: budgets, cases, progress bars, the model that is named, errors of the user's code."""
