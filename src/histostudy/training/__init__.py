"""Training: one run is one function of settings, bags and a split, to predictions and weights."""
