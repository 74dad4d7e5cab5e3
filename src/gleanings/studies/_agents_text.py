"""Texts of the study driving-agents: claim, what the paper says, protocol, differences and rule."""

CLAIM = """
Among agents that drive open loop, behaviour cloning on discrete actions does best; a route to follow helps; and what is
trained by reinforcement against reacting traffic collides over four times as often in traffic that replays its log.

Three claims: discrete behaviour cloning fails less than cloning with a normal distribution (D1) and with a mixture of
them (D2); with its route it leaves the route less (R1) and fails less (R2) than without; a DQN trained among others by
IDM collides more among others from the log than among those it was trained with (W).
"""

PAPER_FIGURE = """
Text of arXiv 2310.08710: among the agents in open loop discrete behaviour cloning does best; conditioning on a route
improves route following, off-road and collision rates; an agent trained by reinforcement against IDM collides over 4
times more often when it is moved to log playback. Tables 3 to 5 are known second-hand only and are not quoted.
"""

PROTOCOL = """
Scenes are generated hazards, ten kinds, 30 % of them without an event, with a fair expert as the ego's log and, in
60 %, a car that follows closely. Those that the expert fails are drawn again. Training and test scenes have maps of
their own, 104 scenes share a set of maps; none is a scene of the study `bc-sac`.

- World: 0.1 s steps, a decision every 0.2 s, 40 decisions; nothing ends an episode. Others replay their logs, or drive
  by IDM on their paths.
- Failure: contact or off the road at any step. Failure*: failure, or progress below half of the log's. Off the route:
  more than 4 m from the middle of the lanes the log drove on, at any step.
- Arms: behaviour cloning with a categorical head (13 x 21 actions), the same without the route, with a normal
  distribution, with a mixture of six; double DQN with prioritised replay on the same 13 x 21 actions, trained among
  others from the log, and trained among others by IDM. The same networks up to their last layer, batches of 256 and
  numbers of gradient steps; no pre-training. Seeds from 0 on, the same number in every arm.
- All drive all test scenes in both worlds, as they come, by the likeliest action or that of the largest value, of
  networks averaged over about the last seventh of the steps. A policy in another world than that of its training is
  in a shifted world, and is called so.
- Nothing is tuned on scenes of this study. All heads take the learning rate that the third version of the study
  `bc-sac` froze for its BC, which has the normal distribution: that arm alone was tuned. The DQN has a rate of 1e-3.
- Controls: expert replay and random actions, in both worlds.
- Intervals: crossed bootstrap over seeds and maps, within kinds, 5,000 draws, with t quantiles of the seeds. One-sided
  p-values, Holm over all five at .025. The ratio of W has its interval from the same bootstrap of its logarithm, to
  first order.

Size quick: 416 training and 208 test scenes, 3 seeds, 5 iterations of 100 steps with batches of 128, without the DQN
trained among others from the log: too little to conclude much.
Size full: 4,056 training and 1,040 test scenes, 5 seeds, 18 iterations with 256 episodes and 160 gradient steps each.
"""

DEVIATIONS = """
- Scenes, logs and the expert are generated, thousands of them; 8 s at 5 decisions a second.
- Networks are small, with sets pooled by maximum and mean in place of the paper's encoders, and 2,880 gradient steps in
  size full. Agents of the paper that are not named here are left out.
- What the paper does not give is ours: bins, mixture, discount, rates, batches, numbers of steps. The DQN is rewarded
  for clearance and for the distance to the road edge, not for progress.
- The route is the middle of the lanes that the log drove on, 50 m ahead; without it the rows are masked, and the
  network is as large. The reacting world is our IDM on logged paths.
- Of the heads the normal distribution alone was tuned, in the study `bc-sac`: here that can only help it.
- The ratio of collisions that must be reached is 2, half of the paper's 4.
- A run of size quick on other test scenes, in which no hypothesis was shown, and pilots with one seed on 312 training
  scenes came first. On 104 more of these cloning at that rate did not diverge (failure 44 % discrete, 45 % normal). The
  DQN's last iterates drove and stood in turn, so that here averages drive; its rate, 1e-3, was not changed after 3e-4.
"""

RULE = """
Fixed before the run.

- Gates, one miss and nothing is concluded: expert replay fails in at most 1 % of the scenes; random actions fail* in at
  least 80 %; every learnt arm fails* less than random actions. Others as in the log.
- R1: discrete cloning with its route leaves the route less often than without. R2: it fails less often.
- W: the DQN trained among others by IDM collides less often there than among others from the log, by scene and seed.
- D1: discrete cloning fails less often than with a normal distribution. D2: than with a mixture.
- One-sided, Holm over the five at .025; others as in the log but in W; all test scenes.

Reproduced: all five hold, and the ratio of W is at least 2, half of the paper's. Partly: at least one of the three
claims is wholly shown: D1 and D2; R1 and R2; W with a lower bound of the ratio above 1. Underpowered: none is, and R2
or W could have been shown only from 10 points on (80 % power). Not reproduced: otherwise.
"""

BIBTEX = """
@inproceedings{gulino2023waymax,
  title     = {Waymax: An Accelerated, Data-Driven Simulator for Large-Scale Autonomous Driving Research},
  author    = {Gulino, Cole and Fu, Justin and Luo, Wenjie and Tucker, George and others},
  booktitle = {Advances in Neural Information Processing Systems: Datasets and Benchmarks},
  year      = {2023},
  eprint    = {2310.08710},
  archivePrefix = {arXiv}
}
"""
