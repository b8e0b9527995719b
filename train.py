"""``python train.py method=mochi data=cifar10``: see ``python train.py --help``."""

from ssl_framework.commands.train import main

if __name__ == "__main__":
    main()
