"""Results that last on disk: run folders with their locks, journals, checkpoints."""
