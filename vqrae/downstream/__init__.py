"""What a tokenizer is for: understanding with its features, generation with its tokens, both judged through bundles."""
