"""Texts of the study bc-sac-variants: claim, figures of the paper, protocol, differences and rule."""

from gleanings.studies._bc_sac_text import BIBTEX as BIBTEX

CLAIM = """
Training on the hardest tenth of the scenes is best: so trained, imitation, reinforcement and both in one loss each fail
less often in the hardest scenes than trained on all.

Part E tests that. Part F changes one part of BC-SAC at a time and has no verdict.
"""

PAPER_FIGURE = """
The text of arXiv 2212.11419 says that training on the hardest 10 % of the segments is best for all methods. The figures
behind it could not be verified, and none is quoted. What part F changes are options and parts of the paper or of our
version of it; no result of the paper is compared with them.
"""

PROTOCOL = """
Scenes, experts, world, networks and settings are those of the study bc-sac, with training, calibration and test scenes
of its own: generated hazards, ten kinds, others from the log, 8 s at 5 decisions a second.

- Difficulty: four re-simulations of IDM on the lane route under noise. Training and test scenes are ranked among the
  same calibration scenes: top50 and top10 of the training pool lie above their 50 % and 90 % points.
- Part E: BC, SAC and BC-SAC, each trained on all, top50 and top10 of one pool, with the same number of gradient steps
  and of collected episodes; demonstrations are those of the scenes that are driven in. Settings as the third version of
  bc-sac froze them, chosen for training on all scenes.
- Part F: BC-SAC trained on all, with one thing changed, against the arm of part E with the same seeds.
  `binary`: a reward of -1 in a decision with contact or off the road, else 0. `no-offsets`: the usual reward with
  distances of 0 m; nothing is then lost by contact, only by metres beyond the road edge. `absorb`: from the first
  failure on every decision costs the worst reward. `no-followers`: the same hazards drawn without cars that follow
  closely. `few-demos`: demonstrations of one scene in ten. `warm-start`: the actor starts as BC of the same seed, and
  in the first tenth of the gradient steps only the critics learn.
- The modes of averaged actors drive. Failure: contact or off the road at any step. Failure*: failure, or progress below
  half of the log's. Judged is the hardest tenth of the test scenes; the first of them as they come stand beside.
- Controls: expert replay, IDM on the route, constant speed, braking to a stop, random actions.
- Intervals: crossed bootstrap over seeds and maps, within kinds, 5,000 draws, with t quantiles of the seeds; arms are
  paired by seed and scene. One-sided p-values, Holm at .025 over the three hypotheses. Those of part F are not
  corrected.

Size quick: BC and BC-SAC on all and on top10 of 416 scenes, 3 seeds, 5 iterations with 128 episodes, batches of 128;
no part F. Size full: 4,056 training scenes, 5 seeds, 9 iterations with 256 episodes and 160 gradient steps each; in
part F 3 seeds.
"""

DEVIATIONS = """
- Scenes, logs and expert are generated, thousands instead of millions: the hardest tenth of the pool is about 400
  scenes, which may be too few to learn from, where the paper's is of another order.
- Difficulty comes from a fixed planner, not from a model of near misses. MGAIL is not among the methods.
- Settings are ours and were chosen on all scenes; no set of training scenes has settings of its own.
- Training takes 9 iterations instead of the 27 of the study bc-sac, so that rates are higher than there; SAC is still
  improving fast at that point.
- Part F is ours; with a few seeds its intervals are wide, and none is corrected for the number of them.
"""

RULE = """
Fixed before the run.

- Gates, one miss and nothing is concluded: expert replay fails in at most 1 % of both sets of test scenes; random
  actions fail* in at least 80 % of those as they come.
- Hypotheses, one for each method: failure in the hardest tenth of the test scenes is lower when trained on top10 than
  on all. One-sided, Holm at .025 over the methods that were run. Reversed: the opposite, one-sided at .025, by itself.

Reproduced: all three shown. Partly: at least one shown and none reversed. Underpowered: none shown, none reversed, and
the largest difference that would be found 4 times in 5 is above 10 points. Not reproduced: otherwise. Part F has no
verdict.
"""
