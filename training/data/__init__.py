"""Training data: prepared folders, rendered cars, composites, and the commands that make them."""
