"""Studies: what a page of the docs rests on; beside the command, and not installed with it."""
