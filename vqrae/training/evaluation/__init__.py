"""How good a tokenizer is: reconstruction, codebook health, Fréchet distances, linear probe."""
