"""What layers and networks cost on a device: measured, tabulated, checked on whole networks."""
