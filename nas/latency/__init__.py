"""Latencies of layers and networks on a device: measured, tabulated, checked on networks."""
