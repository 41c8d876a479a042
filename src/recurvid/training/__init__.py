"""Training of the bundled model, on the packing code that inference uses."""
