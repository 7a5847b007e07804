"""From a folder of photographs to a network that can be used, by one command: ``nas run``."""
