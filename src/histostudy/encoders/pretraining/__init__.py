"""Encoders made here: self-supervised (DINO, iBOT) on tiles, or distilled from another encoder."""
