"""Cars rendered with every factor known: a small software renderer and its CC0 meshes."""
