"""Self-supervised contrastive pretraining that a researcher configures instead of writing."""

__version__ = "0.1.0"
