"""Labelled tiles: how well an encoder, or a network of pixels, tells tissues apart."""
