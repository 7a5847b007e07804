"""Training supernets and networks alone, and the accuracy that subnets inherit."""
