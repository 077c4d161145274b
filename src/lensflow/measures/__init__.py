"""What is measured on answers; no module here needs a model."""
