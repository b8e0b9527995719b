"""Condenses multiruns into a record (``scripts/report.py outputs/comparison results/comparison``) or into one table."""

from ssl_framework.commands.entry import report

if __name__ == "__main__":
    report()
