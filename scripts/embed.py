"""Vectors of a folder of images: ``python scripts/embed.py run=outputs/latest images=photos out=photos.parquet``."""

from ssl_framework.commands.entry import embed

if __name__ == "__main__":
    embed()
