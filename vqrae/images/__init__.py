"""What a path names: which images a file, a folder or a pattern holds, and what of it is left out or damaged."""
