"""Computational-pathology studies, from whole slides and a clinical table to a report."""

__version__ = "0.1.0"
