"""The tokenizers that can be exported, one file each (`vqrae.export.deployable`)."""
