"""Sources of graphs: a sample is a node's number, and the graph stands beside the samples."""
