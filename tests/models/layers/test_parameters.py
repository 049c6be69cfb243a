import torch

from models.layers.parameters import count_parameters, optimizer_groups
from models.registry import make_spec


def test_norms_and_biases_do_not_decay_and_the_rest_does():
    model = make_spec("hetercsi", {"size": "tiny"}).build(seed=0)
    decayed, plain = optimizer_groups(model, 0.05)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.05, 0.0)
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert all("bias" in names[p] or "norm" in names[p] for p in plain["params"])
    assert all(names[p].endswith(".weight") or names[p] == "mask_token" for p in decayed["params"])
    assert not any("norm" in names[p] for p in decayed["params"])
    assert len(decayed["params"]) + len(plain["params"]) == len(names)
    torch.optim.AdamW(optimizer_groups(model, 0.05), lr=1e-3)


def test_frozen_parameters_are_left_out():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 5))
    model[0].requires_grad_(False)
    assert count_parameters(model) == 25
    assert [len(group["params"]) for group in optimizer_groups(model, 0.1)] == [1, 1]
