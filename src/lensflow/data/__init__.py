"""Data that the package carries: the embedded corpus and the generator of the embedded benchmark."""
