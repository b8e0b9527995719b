"""Vectors of a folder of images: ``python scripts/embed.py run=outputs/latest images=photos out=photos.parquet``."""

from ssl_framework.commands.embed import main

if __name__ == "__main__":
    main()
