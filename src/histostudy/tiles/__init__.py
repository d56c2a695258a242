"""From a tissue mask to tile coordinates: one lattice a slide, at an exact scale, always the same."""
