"""TorchRL still has the private attributes that the doctor uses."""

import torch
from pipelines import loss_parts
from torchrl.data import LazyTensorStorage, RandomSampler, TensorDictReplayBuffer

from recdqn.doctor.internals import random_generator, updated_parameters


def test_attributes_of_a_replay_buffer():
    """A renamed one would not raise: the copy would prefetch, and sample with the original's sampler."""
    generator, sampler = torch.Generator(), RandomSampler()
    storage = LazyTensorStorage(5)
    buffer = TensorDictReplayBuffer(
        storage=storage, sampler=sampler, generator=generator, prefetch=2, batch_size=1
    )
    assert vars(buffer)["_sampler"] is buffer.sampler is sampler
    assert vars(buffer)["_transform"] is buffer.transform
    assert vars(buffer)["_prefetch"] is True
    assert random_generator(buffer) is generator


def test_attributes_of_a_target_updater():
    parts = loss_parts()
    loss, (online, target) = parts["loss"], updated_parameters(parts["updater"])
    for key in loss.value_network_params.keys(True, True):
        assert online["value_network_params"][key] is loss.value_network_params[key]
        assert target["target_value_network_params"][key] is loss.target_value_network_params[key]
