"""What the graphs of any tokenizer are made of, in a form that every runtime takes."""
