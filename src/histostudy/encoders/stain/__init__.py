"""Stain: normalisation, jitter for training, and simulated change of stain and scanner for the audit."""
