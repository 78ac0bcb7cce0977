"""MixNMatch for photos: codes are continuous and hold what a photo shows, not one of a few kinds."""
