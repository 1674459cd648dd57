"""A data set to tokens and back, on Ray Data: any number of workers, resumable; torch-free."""
