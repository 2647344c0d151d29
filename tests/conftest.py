import torch

torch.set_num_threads(1)  # the cores are shared; more threads only wait for each other
torch.set_flush_denormal(True)
