"""Sources of texts: token ids of several wordings a sample."""
