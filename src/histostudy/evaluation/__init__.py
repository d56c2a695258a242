"""Metrics with intervals, curves with bands, paired comparison: from predictions to a study's tables."""
