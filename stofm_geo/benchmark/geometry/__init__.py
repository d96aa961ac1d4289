"""Tasks on graphs in the plane, where directions may matter: their problems and models."""
