"""The tokenizer's three uses on the labelled world, from random weights to a page of figures."""
