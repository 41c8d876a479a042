"""A model that is larger than the device: what lies where, and how it gets there in time."""
