"""INT8, graph to graph: calibration images, ranges, plans, sensitivity, and the search for the fastest plan."""
