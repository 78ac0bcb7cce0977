"""Pictures to learn from: prepared folders, rendered cars, and the commands that make both."""
