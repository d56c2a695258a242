"""Models: an aggregator makes one vector of a bag, a head makes an outcome of the vector."""
