"""``python train.py method=mochi data=cifar10``: see ``python train.py --help``."""

from ssl_framework.commands.entry import train

if __name__ == "__main__":
    train()
