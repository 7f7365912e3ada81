"""Serving: many streams of one model, fed one sample at a time by many callers (`rt.StreamBatcher`)."""
