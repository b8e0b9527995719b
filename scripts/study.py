"""From a sweep to the paper's table: ``python scripts/study.py study=dcl/batch_size scale=small``."""

from ssl_framework.commands.entry import study

if __name__ == "__main__":
    study()
