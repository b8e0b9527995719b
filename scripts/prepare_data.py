"""Makes a store for ``data=store``: ``python scripts/prepare_data.py IMAGES STORE --short-side 160``."""

from ssl_framework.commands.entry import prepare

if __name__ == "__main__":
    prepare()
