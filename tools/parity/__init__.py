"""The same methods trained here and in lightly, from the same initial backbone, and scored by one protocol.

    python -m tools.parity OUT --minutes 60    runs what results/parity lacks, ours and lightly's in turn
    python -m tools.parity OUT --speed         images a second of both, in turn

Runs that a call leaves unfinished go on in the next one. lightly comes with the ``bench`` extra.
"""
