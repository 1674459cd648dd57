"""Training of VQRAE: encoder pre-training on labelled scenes, stage 1 (encoder frozen), stage 2 (all, distilled)."""
