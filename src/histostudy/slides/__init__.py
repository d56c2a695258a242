"""Open a slide: scale, levels, fast exact reading, thumbnails, and what counts as a bad slide."""
