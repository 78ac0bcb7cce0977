"""Object finders: their common interface and its implementations."""
