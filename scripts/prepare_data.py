"""Makes a store for ``data=store``: ``python scripts/prepare_data.py IMAGES STORE --short-side 160``."""

from ssl_framework.commands.prepare import main

if __name__ == "__main__":
    main()
