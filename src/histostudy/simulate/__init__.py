"""Synthetic cohorts: H&E-like slides and a clinical table with planted, known effects."""
