"""Speed as ratios: ``python scripts/benchmark.py {views,step,loss,knn,load,startup,mixers} [--json FILE]``."""

from tools.benchmark.command import main

if __name__ == "__main__":
    main()
