"""Draws what a mixer does to images: ``python scripts/show.py mixer=cutmix data=cifar10``.

With the word ``mixers`` one row for every mixer; with ``views`` two views of some images (``method=byol data=digits``).
Writes a PNG to outputs/show, or the folder of ``--out``, and prints its path.
"""

from ssl_framework.report.mixtures import main

if __name__ == "__main__":
    main()
