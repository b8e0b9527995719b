"""One thread a test process: the tests' tensors are small, and two processes share the work (``make test``)."""

import torch

torch.set_num_threads(1)
