"""How good embeddings and what is made of them are."""
