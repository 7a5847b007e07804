"""From an architecture to something that runs elsewhere."""
