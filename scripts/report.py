"""Condenses a multirun into a record: ``python scripts/report.py outputs/comparison results/comparison``."""

from ssl_framework.report.comparison import main

if __name__ == "__main__":
    main()
