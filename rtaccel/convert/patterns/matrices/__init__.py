"""Rules for calls of linear algebra on small matrices, which `systems`, `factors` and `spectra` have."""
