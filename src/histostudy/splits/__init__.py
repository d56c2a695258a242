"""Folds of patients: drawn or published, and the audit for leaks."""
