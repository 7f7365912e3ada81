"""`rt.fit_budget` on networks with a task: what it finds, how right it predicts, how long it takes, beside other searches."""
