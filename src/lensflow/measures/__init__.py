"""The measures on answers; no module here needs a model."""
