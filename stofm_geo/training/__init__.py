"""Training: the one package that uses Lightning."""
