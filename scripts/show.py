"""Draws what a mixer does to images, and runs: ``python scripts/show.py report run=outputs/latest``; see --help.

Writes a PNG to outputs/show, or to pictures in the run folder, or report.html in the run folder, and prints its path.
"""

from ssl_framework.commands.entry import show

if __name__ == "__main__":
    show()
