"""Choosing numeric ranges, graph to graph. FP16 and INT8 land here; FP32 needs none."""
