"""Bugs of the loss, and of what an update trains."""

from __future__ import annotations

from recdqn.doctor.report import Bug

LOSS: dict[str, Bug] = {
    "not-finite": Bug(
        "error",
        "a parameter, an entry or the loss is not finite",
        "restore earlier weights, lower the learning rate, and clip the gradient norm",
        (
            "reward-differs",
            "target-reads-now",
            "slice-over-episodes",
            "unrelated-transitions",
            "state-not-carried",
            "reset-remembers",
            "memory-outside-data",
            "input-overwritten",
            "norm-off",
        ),
    ),
    "target-leak": Bug(
        "error",
        "the loss of one slice depends on another slice",
        "use RecurrentDQNLoss; in your own loss, restart every pass from the stored state at each slice",
    ),
    "recurrent-mode-off": Bug(
        "error",
        "the loss treats every step independently",
        "run the network under set_recurrent_mode(True) in the loss, so that gradients flow through time",
        ("memory-not-trained",),
    ),
    "target-frozen": Bug(
        "error",
        "the target network never moves",
        "create SoftUpdate(loss, tau=...) or HardUpdate(loss, ...) and call its step() after the optimiser's",
    ),
    "target-is-online": Bug(
        "error",
        "the target network is the online network",
        "build the loss with delay_value=True",
    ),
    "padding-counted": Bug(
        "error",
        "the loss counts padded steps",
        "keep {mask!r} in the batch, and average over the steps where it is true",
        ("is-init-lost", "slice-over-episodes", "state-lost"),
    ),
    "reward-ignored": Bug(
        "error",
        "the loss does not read the rewards",
        "let the loss read batch[{reward!r}]; a loss of TorchRL by loss.set_keys(reward={reward_key!r})",
    ),
    "action-ignored": Bug(
        "error",
        "the loss does not read the actions",
        "give the loss the action space of the environment: action_space=env.action_spec",
    ),
    "terminated-ignored": Bug(
        "error",
        "the target continues after the end of an episode",
        "multiply the bootstrap by ~batch['next', 'terminated']",
    ),
    "bootstrap-stops": Bug(
        "error",
        "the target stops where a slice or a time limit ends",
        "multiply the bootstrap by ~batch['next', 'terminated'], not by ~batch['next', 'done']",
        ("target-reads-now",),
    ),
    "target-reads-now": Bug(
        "error",
        "the target reads the observation before the action",
        "compute the target from batch[{next_observation!r}]",
    ),
    "n-step-discount": Bug(
        "error",
        "the bootstrap has another discount than the rewards",
        "multiply the bootstrap by gamma to the number of summed rewards",
    ),
    "weights-wrong": Bug(
        "error",
        "the importance weights are not applied once",
        "multiply the error of each step once by batch[{key!r}]",
    ),
    "memory-not-trained": Bug(
        "error",
        "the recurrent layer gets no gradient",
        "let the loss and the optimiser have the parameters of the recurrent layer, and let gradients "
        "flow through time",
    ),
    "trains-a-copy": Bug(
        "error",
        "the loss trains a copy of the policy",
        "build the loss from the policy that acts: loss = DQNLoss(policy[:-1], ...)",
        ("memory-not-trained",),
    ),
    "target-gradient": Bug(
        "error",
        "the gradient flows through the target",
        "compute the target under torch.no_grad()",
    ),
    "target-at-once": Bug(
        "error",
        "the target network follows at once",
        "SoftUpdate(loss, tau=0.01): tau is the share that moves, eps the share that stays",
    ),
}
