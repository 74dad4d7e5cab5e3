"""Clips read back from their own text; several of them on one page in a browser."""

import base64
import json
import re
from pathlib import Path

import numpy as np
import pytest

from gleanings.core.errors import ConfigError
from gleanings.driving.clips import MOST_BYTES, clip_fragment
from gleanings.driving.crop import crop_scene
from gleanings.driving.families import make_scenes
from gleanings.driving.scene import Scene, Trajectory

TYPES = {"i16": "<i2", "u8": "u1", "f32": "<f4"}
SPEAK = """
<script>
const figures = [...document.querySelectorAll("figure.gleanings-clip")], said = {};
const pictures = () => figures.map((one) => [...one.querySelectorAll("canvas")].map((c) => c.toDataURL()));
const before = pictures(), slider = figures[1].querySelector("input");
said.opened = figures.map((one) => one.dataset.frame);
said.panels = before.map((one) => one.length);
slider.value = 30; slider.dispatchEvent(new Event("input"));
const after = pictures();
said.frames = figures.map((one) => one.dataset.frame);
said.other = JSON.stringify(after[0]) === JSON.stringify(before[0]);
said.moved = after[1].map((one, k) => one !== before[1][k]);
said.title = figures[1].querySelector("div > div > div").textContent;
figures[0].querySelector("button").click();
said.button = figures.map((one) => one.querySelector("button").textContent);
let left = 60;
const wait = setInterval(() => {
  if (figures[0].dataset.frame === "0" && --left) return;
  clearInterval(wait); said.ran = Number(figures[0].dataset.frame) > 0;
  const result = document.createElement("pre"); result.id = "said"; result.textContent = JSON.stringify(said);
  document.body.append(result);
}, 100);
</script>
"""


@pytest.fixture(scope="module")
def scene() -> Scene:
    return crop_scene(make_scenes("four_way_signal", seed=3)[0])


def leaving(scene: Scene, by: float, slots: slice | int = 0) -> Trajectory:
    """The log from the start on, which the objects in `slots` leave sideways by up to `by` metres."""
    rows = Trajectory(*(np.array(field[1:]) for field in scene.log))
    rows.y[:, slots] += np.linspace(0, by, len(rows.y), dtype=np.float32)[(...,) + (None,) * isinstance(slots, slice)]
    return rows


def read(fragment: str) -> dict:
    found = re.search(r'<script type="application/json">(.*?)</script>', fragment, re.DOTALL)
    assert found
    return json.loads(found[1])


def unpack(part: list, columns: int) -> np.ndarray:
    kind, scale, text = part
    return np.frombuffer(base64.b64decode(text), TYPES[kind]).reshape(-1, columns) * scale


def test_what_is_shown_is_what_was_driven(scene: Scene) -> None:
    rollouts = {"mine": leaving(scene, 3.0), "log": leaving(scene, 0.0), "all": leaving(scene, -2.0, slice(None))}
    fragment = clip_fragment(scene, rollouts, marks={"mine": 25})
    clip, count = read(fragment), int(scene.objects.exists.sum())
    assert [one["slots"] for one in clip["rollouts"]][:2] == [[0], []]
    assert [one["mark"] for one in clip["rollouts"]] == [25, None, None]
    assert (clip["first"], clip["frames"], clip["steps"]) == (1, 81, 82)
    for one, rollout in zip(clip["rollouts"], rollouts.values(), strict=True):
        slots = one["slots"]
        for name in ("x", "y") if slots else ():
            there = rollout.valid[:, slots]
            values = unpack(one["pose"][name], len(slots))
            np.testing.assert_allclose(values[there], getattr(rollout, name)[:, slots][there], atol=0.006)
            bits = np.unpackbits(unpack(one["pose"]["valid"], 1).astype(np.uint8))[: there.size]
            np.testing.assert_array_equal(bits.reshape(there.shape), there)
    np.testing.assert_allclose(unpack(clip["log"]["yaw"], count), scene.log.yaw[:, :count], atol=1e-4)
    every = clip_fragment(scene, {"half": Trajectory(*(field[::2] for field in leaving(scene, 0.0)))}, every=2)
    assert read(every)["rollouts"][0]["slots"] == []


def test_clips_are_small_and_hold_no_address(scene: Scene) -> None:
    three = {f"policy <{k}>": leaving(scene, k + 1.0) for k in range(3)}
    worst = {name: leaving(scene, 5.0, slice(None)) for name in "abc"}
    assert len(clip_fragment(scene, three)) < 32_000
    assert len(clip_fragment(scene, worst)) <= MOST_BYTES
    assert "</script" not in json.dumps(read(clip_fragment(scene, three)))
    assert not re.search(r"https?:|\bid=|src=", clip_fragment(scene, three))


def test_what_cannot_be_shown(scene: Scene) -> None:
    with pytest.raises(ConfigError, match="needs a rollout"):
        clip_fragment(scene, {})
    with pytest.raises(ConfigError, match="every >= 1"):
        clip_fragment(scene, {"a": leaving(scene, 1.0)}, every=0)
    with pytest.raises(ConfigError, match="'a' has shape"):
        clip_fragment(scene, {"a": Trajectory(*(field[:, :3] for field in scene.log))})
    with pytest.raises(ConfigError, match="at most 60,000: use crop_scene"):
        clip_fragment(scene, {name: leaving(scene, 5.0, slice(None)) for name in "abcdefgh"})


def test_several_clips_play_on_one_page(scene: Scene, tmp_path: Path, browser) -> None:
    clips = (
        clip_fragment(scene, {"a": leaving(scene, 1.0)}),
        clip_fragment(scene, {"b": leaving(scene, 2.0), "c": leaving(scene, -2.0)}, marks={"b": 20}),
    )
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><body>{''.join(clips)}{SPEAK}", encoding="utf-8")
    out, console = browser(page, "--window-size=1100,700", "--virtual-time-budget=9000", "--dump-dom")
    said = json.loads(re.search(r'<pre id="said">(.*?)</pre>', out)[1])
    assert not console
    assert said == {
        "opened": ["0", "20"],
        "panels": [1, 2],
        "frames": ["0", "30"],
        "other": True,
        "moved": [True, True],
        "title": "b · failed at 2.0 s",
        "button": ["Pause", "Play"],
        "ran": True,
    }
