import torch

torch.set_num_threads(1)  # small tensors on shared cores: a second thread costs more than it brings
