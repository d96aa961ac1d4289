"""How fast it is, and in how much memory."""
