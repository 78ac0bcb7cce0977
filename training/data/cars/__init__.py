"""Rendered cars with all factors known: a small software renderer and its CC0 meshes."""
