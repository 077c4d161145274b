"""The data in the package: the embedded corpus and the generator of the embedded benchmark."""
