"""From a trained checkpoint to bundles: fold, trace, build, check, write."""
