"""From a sweep to the paper's table: ``python scripts/study.py study=dcl/batch_size scale=small``."""

from ssl_framework.commands.study import main

if __name__ == "__main__":
    main()
