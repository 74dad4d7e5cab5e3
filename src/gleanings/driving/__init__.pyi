from gleanings.driving.agents import ConstantVelocity, LogPlayback, Mixed, PolicyAgent, SimAgent, selected
from gleanings.driving.auto_reset import AutoReset
from gleanings.driving.clips import clip_fragment
from gleanings.driving.compile import compile_scene
from gleanings.driving.config import CompileConfig, ObserveConfig, SimConfig
from gleanings.driving.crop import CropConfig, crop_scene
from gleanings.driving.dynamics import Bicycle, DeltaGlobal, DeltaLocal, Discrete, Dynamics, StateTarget
from gleanings.driving.env import DrivingEnv
from gleanings.driving.evaluation import Evaluation, evaluate, roll_out
from gleanings.driving.export import export_npz
from gleanings.driving.families import FAMILIES, make_raw, make_scenes
from gleanings.driving.fans import Plan, constant_grid, fan, rank
from gleanings.driving.idm import IDM
from gleanings.driving.likelihood import realism, sample
from gleanings.driving.load import SceneError, iter_scenes, load_scenes, read_raw
from gleanings.driving.metrics import measure, step_metrics
from gleanings.driving.noise import Noisy
from gleanings.driving.observation import Observation, flatten, observation_size, observe, observe_ego, unflatten
from gleanings.driving.policies import driven_by, expert, null, policy_from
from gleanings.driving.raw import Kind, Light, MapFeature, RawGoal, RawLight, RawScene, RawTrack
from gleanings.driving.raw_check import check_raw
from gleanings.driving.reward import GoalReward, LinearReward
from gleanings.driving.road import near_lanes, signed_distance, signed_distance_dense
from gleanings.driving.routes import with_lane_route
from gleanings.driving.scene import Pose, Scene, Trajectory, source_of
from gleanings.driving.sim import Simulator
from gleanings.driving.stack import group_scenes, pad_scene, stack_scenes
from gleanings.driving.state import Action, Metric, Rollout, SimState, StepOutput
from gleanings.driving.store import compile_files, is_compiled, save_scenes
from gleanings.driving.summary import summarise
from gleanings.driving.vector_env import DrivingVectorEnv
from gleanings.driving.video import save_video
from gleanings.driving.viewer import save_replay
from gleanings.driving.witness import Witness, witnesses

__all__ = [
    "FAMILIES",
    "IDM",
    "Action",
    "AutoReset",
    "Bicycle",
    "CompileConfig",
    "ConstantVelocity",
    "CropConfig",
    "DeltaGlobal",
    "DeltaLocal",
    "Discrete",
    "DrivingEnv",
    "DrivingVectorEnv",
    "Dynamics",
    "Evaluation",
    "GoalReward",
    "Kind",
    "Light",
    "LinearReward",
    "LogPlayback",
    "MapFeature",
    "Metric",
    "Mixed",
    "Noisy",
    "Observation",
    "ObserveConfig",
    "Plan",
    "PolicyAgent",
    "Pose",
    "RawGoal",
    "RawLight",
    "RawScene",
    "RawTrack",
    "Rollout",
    "Scene",
    "SceneError",
    "SimAgent",
    "SimConfig",
    "SimState",
    "Simulator",
    "StateTarget",
    "StepOutput",
    "Trajectory",
    "Witness",
    "check_raw",
    "clip_fragment",
    "compile_files",
    "compile_scene",
    "constant_grid",
    "crop_scene",
    "driven_by",
    "evaluate",
    "expert",
    "export_npz",
    "fan",
    "flatten",
    "group_scenes",
    "is_compiled",
    "iter_scenes",
    "load_scenes",
    "make_raw",
    "make_scenes",
    "measure",
    "near_lanes",
    "null",
    "observation_size",
    "observe",
    "observe_ego",
    "pad_scene",
    "policy_from",
    "rank",
    "read_raw",
    "realism",
    "roll_out",
    "sample",
    "save_replay",
    "save_scenes",
    "save_video",
    "selected",
    "signed_distance",
    "signed_distance_dense",
    "source_of",
    "stack_scenes",
    "step_metrics",
    "summarise",
    "unflatten",
    "with_lane_route",
    "witnesses",
]
