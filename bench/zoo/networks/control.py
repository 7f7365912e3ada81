"""Control: policies, critics and world models of reinforcement learning, liquid networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from bench.zoo.entry import Entry, Made, Method, Output
from bench.zoo.inputs import image, observation, series


def _spaces(observed: int, actions: int) -> tuple[Any, Any]:
    import gymnasium.spaces as spaces

    return spaces.Box(-5.0, 5.0, (observed,)), spaces.Box(-1.0, 1.0, (actions,))


def ppo_policy() -> Made:
    from stable_baselines3.common.policies import ActorCriticPolicy

    observed, actions = _spaces(24, 4)
    built = ActorCriticPolicy(observed, actions, lambda _: 3e-4, net_arch={"pi": [64, 64], "vf": [64, 64]})
    return Method(built, "_predict", deterministic=True), (observation(24),)


def sac_actor() -> Made:
    from stable_baselines3.sac.policies import SACPolicy

    observed, actions = _spaces(24, 4)
    built = SACPolicy(observed, actions, lambda _: 3e-4, net_arch=[128, 128])
    return Method(built.actor, "_predict", deterministic=True), (observation(24),)


def td3_critic() -> Made:
    from stable_baselines3.td3.policies import TD3Policy

    observed, actions = _spaces(24, 4)
    return TD3Policy(observed, actions, lambda _: 3e-4, net_arch=[128, 128]).critic, (observation(24), observation(4))


def nature_cnn() -> Made:
    import gymnasium.spaces as spaces
    import numpy as np
    from stable_baselines3.common.torch_layers import NatureCNN

    return NatureCNN(spaces.Box(0, 1, (4, 84, 84), np.float32), 128, normalized_image=True), (image(4, 84),)


def torchrl_mlp() -> Made:
    from torchrl.modules import MLP

    return MLP(24, 8, depth=3, num_cells=64, activation_class=nn.Tanh, layer_class=nn.Linear), (observation(24),)


def torchrl_actor() -> Made:
    from torchrl.modules import MLP, NormalParamExtractor

    return nn.Sequential(MLP(24, 8, depth=2, num_cells=64), NormalParamExtractor()), (observation(24),)


def torchrl_dueling() -> Made:
    from torchrl.modules import DuelingCnnDQNet

    convolutions = {"num_cells": [16, 32], "kernel_sizes": [8, 4], "strides": [4, 2], "activation_class": nn.ELU}
    heads = {"depth": 1, "num_cells": 64, "activation_class": nn.ELU}
    return DuelingCnnDQNet(6, cnn_kwargs=convolutions, mlp_kwargs=heads), (image(4, 84),)


def torchrl_dreamer_decoder() -> Made:
    from torchrl.modules import ObsDecoder

    return ObsDecoder(channels=8, latent_dim=64), (observation(32), observation(32))


def torchrl_multi_agent() -> Made:
    from torchrl.modules import MultiAgentMLP

    return MultiAgentMLP(12, 4, n_agents=3, centralized=False, share_params=False, depth=2, num_cells=32), (
        torch.randn(1, 3, 12),
    )


def torchrl_conv_net() -> Made:
    from torchrl.modules.models import ConvNet

    return ConvNet(num_cells=[16, 32], kernel_sizes=3, strides=2, activation_class=nn.SiLU), (image(3, 32),)


def tianshou_net() -> Made:
    from tianshou.utils.net.common import Net

    return Output(Net(state_shape=24, action_shape=4, hidden_sizes=[64, 64], norm_layer=nn.LayerNorm), 0), (
        observation(24),
    )


def tianshou_recurrent() -> Made:
    from tianshou.utils.net.common import Recurrent

    return Output(Recurrent(layer_num=1, state_shape=24, action_shape=4, hidden_layer_size=64), 0), (series(8, 24),)


def cfc(**options: Any) -> Any:
    def make() -> Made:
        from ncps.torch import CfC

        return Output(CfC(8, 32, batch_first=True, **options), 0), (series(8, 8),)

    return make


def cfc_wired() -> Made:
    from ncps.torch import CfC
    from ncps.wirings import AutoNCP

    return Output(CfC(8, AutoNCP(28, 4)), 0), (series(8, 8),)


def ltc() -> Made:
    from ncps.torch import LTC
    from ncps.wirings import AutoNCP

    return Output(LTC(8, AutoNCP(16, 4)), 0), (series(4, 8),)


def decision_transformer() -> Made:
    from transformers import DecisionTransformerConfig, DecisionTransformerModel

    built = DecisionTransformerModel(
        DecisionTransformerConfig(state_dim=12, act_dim=4, hidden_size=32, n_layer=2, n_head=2)
    )
    return DecisionStep(built), (series(8, 12), series(8, 4), series(8, 1))


class DecisionStep(nn.Module):
    """States, actions and returns in, the next action out; time steps and mask are constants."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, states: torch.Tensor, actions: torch.Tensor, returns: torch.Tensor) -> torch.Tensor:
        steps = torch.arange(states.shape[1]).expand(states.shape[0], -1)
        out = self.model(states=states, actions=actions, returns_to_go=returns, timesteps=steps, attention_mask=None)
        return out["action_preds"][:, -1]


ACTION = "calls `_predict` with deterministic=True"
SEQUENCE = "picks the sequence of outputs"
ENTRIES = (
    Entry("sb3_ppo_policy", "stable-baselines3", ppo_policy, ACTION),
    Entry("sb3_sac_actor", "stable-baselines3", sac_actor, ACTION),
    Entry("sb3_td3_critic", "stable-baselines3", td3_critic),
    Entry("sb3_nature_cnn", "stable-baselines3", nature_cnn),
    Entry("torchrl_mlp", "torchrl", torchrl_mlp),
    Entry("torchrl_actor", "torchrl", torchrl_actor),
    Entry("torchrl_dueling_cnn", "torchrl", torchrl_dueling),
    Entry("torchrl_dreamer_decoder", "torchrl", torchrl_dreamer_decoder),
    Entry("torchrl_multi_agent", "torchrl", torchrl_multi_agent),
    Entry("torchrl_conv_net", "torchrl", torchrl_conv_net),
    Entry("tianshou_net", "tianshou", tianshou_net, "picks the action values"),
    Entry("tianshou_recurrent", "tianshou", tianshou_recurrent, "picks the action values"),
    Entry("ncps_cfc", "ncps", cfc(), SEQUENCE),
    Entry("ncps_cfc_mixed", "ncps", cfc(mixed_memory=True), SEQUENCE),
    Entry("ncps_cfc_wired", "ncps", cfc_wired, SEQUENCE),
    Entry("ncps_ltc", "ncps", ltc, SEQUENCE),
    Entry(
        "decision_transformer", "transformers", decision_transformer, "time steps are constants; picks the next action"
    ),
)
