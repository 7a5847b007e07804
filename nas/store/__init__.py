"""What lasts: run folders with their locks, journals, checkpoints."""
