"""The `vqrae` command: one small file per verb, each of which imports what it needs when it runs."""
