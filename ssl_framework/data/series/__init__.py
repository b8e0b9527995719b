"""Sources of series: samples of C channels at T regular times."""
