"""MixNMatch for photos: the codes are continuous vectors and maps instead of one-hot classes."""
