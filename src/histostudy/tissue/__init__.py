"""Where tissue is on a slide: segmenters, pen and artefacts, sections, and GeoJSON in and out."""
