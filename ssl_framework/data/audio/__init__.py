"""Sources of sounds: waveforms of T points at a fixed rate."""
