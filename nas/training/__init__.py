"""Training a supernet, and the accuracy that its subnets inherit."""
