"""Networks and layers that several packages share."""
