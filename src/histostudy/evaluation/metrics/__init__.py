"""Metrics, each prepared once and then taken under any weights of the patients."""
