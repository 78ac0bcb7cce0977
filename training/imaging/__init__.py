"""Reading and writing of pictures and films, untrusted files included."""
