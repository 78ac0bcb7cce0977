"""Pictures of people, read with care."""
