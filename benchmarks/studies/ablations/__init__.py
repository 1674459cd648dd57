"""The paper's claims on codebook and strategy, tried at a size that runs on two cores."""
