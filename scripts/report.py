"""Condenses multiruns into a record (``scripts/report.py outputs/comparison results/comparison``) or into one table."""

from ssl_framework.commands.report import main

if __name__ == "__main__":
    main()
