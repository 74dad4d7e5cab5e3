from gleanings.driving.learn.bank import make_bank
from gleanings.driving.learn.baselines import BrakeToStop, ConstantSpeed, ExpertReplay, IdmOnRoute, Random, controls
from gleanings.driving.learn.config import (
    BCConfig,
    BCSACConfig,
    BucketConfig,
    DemoConfig,
    DQNConfig,
    NetConfig,
    WorldConfig,
    sac_config,
)
from gleanings.driving.learn.contract import Contract, make_contract
from gleanings.driving.learn.cutting import entire, learning_scenes, windows
from gleanings.driving.learn.demos import Audit, Demonstrations, make_demonstrations
from gleanings.driving.learn.difficulty import (
    Buckets,
    DifficultyModel,
    difficulty_scores,
    fit_difficulty_model,
    make_buckets,
)
from gleanings.driving.learn.drives import Driver, Drives, drive
from gleanings.driving.learn.episode_clips import episode_clips, worst_failures
from gleanings.driving.learn.evaluate import PolicyEvaluation, compare, evaluate_policy
from gleanings.driving.learn.exporting import export_run, open_run
from gleanings.driving.learn.hazards import KINDS, Discards, make_hazards
from gleanings.driving.learn.labels import label_actions
from gleanings.driving.learn.memory import check_memory
from gleanings.driving.learn.outcomes import Outcomes, outcomes_of
from gleanings.driving.learn.policy import Policy, export_policy, load_policy
from gleanings.driving.learn.rollouts import SimulatorPolicy, simulator_policy
from gleanings.driving.learn.safety_reward import BinaryReward, SafetyReward, clearance
from gleanings.driving.learn.split import Split, split_scenes
from gleanings.driving.learn.training import Training, driver_of, train
from gleanings.driving.learn.world import Decision, World

__all__ = [
    "KINDS",
    "Audit",
    "BCConfig",
    "BCSACConfig",
    "BinaryReward",
    "BrakeToStop",
    "BucketConfig",
    "Buckets",
    "ConstantSpeed",
    "Contract",
    "DQNConfig",
    "Decision",
    "DemoConfig",
    "Demonstrations",
    "DifficultyModel",
    "Discards",
    "Driver",
    "Drives",
    "ExpertReplay",
    "IdmOnRoute",
    "NetConfig",
    "Outcomes",
    "Policy",
    "PolicyEvaluation",
    "Random",
    "SafetyReward",
    "SimulatorPolicy",
    "Split",
    "Training",
    "World",
    "WorldConfig",
    "check_memory",
    "clearance",
    "compare",
    "controls",
    "difficulty_scores",
    "drive",
    "driver_of",
    "entire",
    "episode_clips",
    "evaluate_policy",
    "export_policy",
    "export_run",
    "fit_difficulty_model",
    "label_actions",
    "learning_scenes",
    "load_policy",
    "make_bank",
    "make_buckets",
    "make_contract",
    "make_demonstrations",
    "make_hazards",
    "open_run",
    "outcomes_of",
    "sac_config",
    "simulator_policy",
    "split_scenes",
    "train",
    "windows",
    "worst_failures",
]
