"""What tokenizers are trained on: photographs, crops of them, and labelled scenes over them."""
