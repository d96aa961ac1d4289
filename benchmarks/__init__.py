"""Measurements; each is a command that writes its result as JSON."""
