"""The backbone: the network that is asked for a velocity at every step."""
