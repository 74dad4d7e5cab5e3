"""The replay page: read back from its own bytes, and used in a browser; films have the right frames."""

import base64
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gleanings.core.errors import ConfigError
from gleanings.driving.config import PER_STEP_METRICS
from gleanings.driving.families import make_scenes
from gleanings.driving.scene import Edges, Objects, Scene, Trajectory
from gleanings.driving.video import save_video
from gleanings.driving.viewer import CONTROLLED, PARKED, REACTIVE, REPLAYED, save_replay, states_of
from gleanings.driving.witness import witnesses

_CLICKS = """
<script>
// A headless browser under load may draw no frame in its virtual time; timers always run in it.
window.requestAnimationFrame = (call) => setTimeout(() => call(performance.now()), 16);
const said = {}, at = () => Number(document.body.dataset.frame), picture = () => canvas.toDataURL();
const press = (key) => window.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const pointer = (type, x, y) => canvas.dispatchEvent(Object.assign(
  new PointerEvent(type, { clientX: x, clientY: y, pointerId: 1, bubbles: true }), {}));
canvas.setPointerCapture = () => {};
const start = picture();
$("next").click(); said.next = at();
$("back").click(); said.back = at();
press("ArrowRight"); press("ArrowRight"); said.keys = at();
$("scrub").value = 40; $("scrub").dispatchEvent(new Event("input")); said.scrub = at();
said.moved = picture() !== start;
press("End"); said.end = at(); press("Home"); said.home = at();
const other = scene.objects.kind.findIndex((kind, n) => kind === 1 && n !== scene.ego && roll.state[n]);
const area = canvas.getBoundingClientRect();
const x = area.left + (roll.pose.x[other] - view.x) * view.scale + stage.clientWidth / 2;
const y = area.top + (view.y - roll.pose.y[other]) * view.scale + stage.clientHeight / 2;
pointer("pointerdown", x, y); pointer("pointerup", x, y);
said.picked = Number(document.body.dataset.chosen) === other;
said.heading = document.querySelector("#panel h2").textContent;
said.strips = document.querySelectorAll(".strip").length;
const scale = view.scale;
canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: -400, clientX: x, clientY: y, cancelable: true }));
said.zoomed = view.scale > scale;
const before = view.x;
pointer("pointerdown", x, y); pointer("pointermove", x + 60, y); pointer("pointerup", x + 60, y);
said.panned = view.x !== before;
$("follow").checked = true; $("follow").dispatchEvent(new Event("change"));
said.followed = Math.abs(view.x - roll.pose.x[other]) < 0.01;
$("fit").click(); said.fitted = Math.abs(view.scale - scale) < 1e-9;
$("which").value = 1; $("which").dispatchEvent(new Event("change")); said.frames = Number(document.body.dataset.frames);
$("which").value = 0; $("which").dispatchEvent(new Event("change"));
$("play").click(); said.playing = document.body.dataset.playing;
let left = 60;
const wait = setInterval(() => {
  if (at() === 0 && --left) return;
  clearInterval(wait);
  said.ran = at(); $("play").click();
  go(4); chosen = scene.ego; draw(); said.seen = Number(document.body.dataset.witnesses);
  go(5); said.unseen = Number(document.body.dataset.witnesses); said.paused = document.body.dataset.playing;
  const result = document.createElement("pre"); result.id = "said"; result.textContent = JSON.stringify(said);
  document.body.append(result);
}, 100);
</script>
"""


@pytest.fixture(scope="module")
def scene() -> Scene:
    return make_scenes("four_way_signal", seed=3)[0]


def pretend(scene: Scene) -> Any:
    """A rollout that moves the ego off its log, marks every third step as a contact, and lets another object react."""
    log, first = scene.log, int(scene.start)
    ego, other = int(np.flatnonzero(scene.objects.is_sdc)[0]), int(np.flatnonzero(~scene.objects.is_sdc)[0])
    moved = Trajectory(*(np.array(field[first:]) for field in log))
    moved.x[:, [ego, other]] += np.linspace(0, 3, len(moved.x), dtype=np.float32)[:, None]
    steps, slots = len(moved.x) - 1, moved.x.shape[1]
    contact = np.zeros((steps, slots), bool)
    contact[::3, ego] = True
    time = np.where(contact, 0.0, 2.5).astype(np.float32)
    known = np.ones((steps, slots), bool)
    known[5] = False
    metrics = {
        "collision": SimpleNamespace(value=contact, mask=known),
        "ttc_s": SimpleNamespace(value=time, mask=known),
    }
    return SimpleNamespace(trajectory=moved, metrics=metrics, first=first, controlled=np.arange(slots) == ego)


def unpack(parts: list[Any]) -> np.ndarray:
    kind, scale, text = parts
    values = np.frombuffer(base64.b64decode(text), {"u8": "u1", "i16": "<i2", "f32": "<f4"}[kind])
    return values if scale == 1 else np.where(values == -32768, np.nan, values * scale)


def payload(page: Path) -> dict[str, Any]:
    (text,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page.read_text(), re.S)
    return json.loads(text)


def test_a_page_holds_the_rollout(scene: Scene, tmp_path: Path):
    rollout = pretend(scene)
    page = save_replay(scene, rollout, tmp_path / "deep" / "replay.html")
    shown, exists = payload(page)["rollouts"][0], np.asarray(scene.objects.exists)
    valid = rollout.trajectory.valid[:, exists]
    assert 0 < valid.shape[1] < len(exists)
    assert shown["frames"] == len(valid)
    for name in ("x", "y", "yaw"):
        error = unpack(shown["pose"][name]).reshape(valid.shape) - getattr(rollout.trajectory, name)[:, exists]
        assert np.abs(error[valid]).max() <= 0.0051
    time = unpack(shown["metrics"]["ttc_s"]).reshape(valid[1:].shape)
    assert np.isnan(time[5]).all()
    assert np.nanmax(np.abs(time - rollout.metrics["ttc_s"].value[:, exists])) < 0.006
    contact = unpack(shown["metrics"]["collision"]).reshape(time.shape)
    assert np.array_equal(contact, (rollout.metrics["collision"].value & rollout.metrics["collision"].mask)[:, exists])


def test_a_page_holds_the_witnesses_of_the_objects_it_shows(scene: Scene, tmp_path: Path):
    """Slots moved apart by empty ones keep their events."""
    n = len(scene.objects.kind)
    spread = np.argsort(np.random.default_rng(0).permutation(n), kind="stable")
    mixed = scene._replace(
        objects=Objects(*(field[spread] for field in scene.objects)),
        log=Trajectory(*(field[:, spread] for field in scene.log)),
    )
    rollout = pretend(mixed)
    page = payload(save_replay(mixed, rollout, tmp_path / "replay.html"))
    ids = [i for i in np.asarray(mixed.objects.id) if i >= 0]
    assert page["objects"]["id"] == ids
    ego = int(np.flatnonzero(mixed.objects.is_sdc)[0])
    assert page["objects"]["id"][page["ego"]] == mixed.objects.id[ego]
    key = unpack(page["rollouts"][0]["witnesses"]["key"]).reshape(-1, 3)
    contact = rollout.metrics["collision"].value & rollout.metrics["collision"].mask
    assert sorted({*key[:, 0]}) == (np.flatnonzero(contact[:, ego]) + 1).tolist()
    assert {*key[:, 1]} == {page["ego"]}
    place = unpack(page["rollouts"][0]["witnesses"]["place"]).reshape(-1, 4)
    wanted = [one.place for one in witnesses(mixed, rollout)]
    np.testing.assert_allclose(place, wanted, atol=0.0051)


def test_a_page_of_a_full_scene_is_small(tmp_path: Path):
    """128 objects, 81 frames, every metric of numbers that vary, a map of 4096 edges and 4096 lane segments."""
    scene, rng = make_scenes("jam", seed=1)[0], np.random.default_rng(0)
    some = np.arange(128) % int(scene.objects.exists.sum())
    full = scene._replace(
        log=Trajectory(*(field[:, some] for field in scene.log)),
        objects=Objects(*(field[some] for field in scene.objects)),
        edges=Edges(*(np.resize(field[np.isfinite(scene.edges.z)], 4096) for field in scene.edges)),
        lanes=scene.lanes._replace(
            **{name: np.resize(getattr(scene.lanes, name), 4096) for name in ("ax", "ay", "dx", "dy", "z")}
        ),
    )
    moved = Trajectory(*(np.array(field[10:]) for field in full.log))
    metrics = {}
    for name in PER_STEP_METRICS:
        noise = rng.normal(0, 9, (80, 128)).astype(np.float32)
        yes = name in (
            "collision",
            "at_fault",
            "off_road",
            "wrong_way",
            "off_route",
            "infeasible",
            "ttc_low",
            "red_light",
            "goal_reached",
        )
        metrics[name] = SimpleNamespace(value=noise > 12 if yes else noise, mask=noise < 30)
    rollout = SimpleNamespace(trajectory=moved, metrics=metrics, first=10, controlled=np.arange(128) == 0)
    page = save_replay(full, rollout, tmp_path / "full.html")
    assert len(payload(page)["objects"]["id"]) == 128
    assert page.stat().st_size <= 1_500_000
    assert save_replay(scene, None, tmp_path / "log.html").stat().st_size < 250_000


def test_states_say_who_moves_an_object(scene: Scene):
    rollout = pretend(scene)
    states = states_of(scene, rollout)
    ego, other = np.flatnonzero(scene.objects.is_sdc)[0], np.flatnonzero(~scene.objects.is_sdc)[0]
    assert set(states[:, ego]) <= {0, CONTROLLED}
    assert set(states[:, other]) <= {0, REACTIVE}
    assert np.array_equal(states > 0, rollout.trajectory.valid)
    still = np.asarray(scene.objects.exists & (scene.objects.extent < 2.0)) & ~np.isin(
        np.arange(len(states.T)), [ego, other]
    )
    assert set(states[:, still].ravel()) <= {0, PARKED}
    assert set(states_of(scene, scene.log).ravel()) <= {0, REPLAYED, PARKED}


@pytest.mark.parametrize("slots", [1, 7])
def test_a_rollout_of_another_scene_is_refused(scene: Scene, tmp_path: Path, slots: int):
    other = Trajectory(*(field[:, :slots] for field in scene.log))
    with pytest.raises(ConfigError, match="object slots"):
        save_replay(scene, other, tmp_path / "r.html")
    with pytest.raises(ConfigError, match="record='pose'"):
        save_replay(scene, SimpleNamespace(trajectory=None), tmp_path / "r.html")


def test_a_name_cannot_leave_its_place(scene: Scene, tmp_path: Path):
    evil = "</script><script>alert(1)</script>"
    text = save_replay(scene, {evil: scene.log, "b": None}, tmp_path / "r.html", title=evil).read_text()
    assert "<script>alert" not in text
    assert payload(tmp_path / "r.html")["rollouts"][0]["name"] == evil


def test_every_control_does_what_it_says(scene: Scene, tmp_path: Path, browser):
    page = save_replay(scene, {"moved": pretend(scene), "log": None}, tmp_path / "replay.html")
    assert page.stat().st_size < 1_500_000
    assert not re.search(r"""(src|href)=|https?://|@import|url\(""", page.read_text())
    page.write_text(page.read_text().replace("</body>", _CLICKS + "</body>"))
    dom, console = browser(page, "--window-size=1100,700", "--virtual-time-budget=9000", "--dump-dom")
    assert console == []
    assert 'data-ready="1"' in dom
    said = json.loads(re.findall(r'<pre id="said">(.*?)</pre>', dom)[0])
    steps = len(scene.log.x) - int(scene.start)
    wanted = {"next": 1, "back": 0, "keys": 2, "scrub": 40, "end": steps - 1, "home": 0, "frames": len(scene.log.x)}
    assert {name: said[name] for name in wanted} == wanted
    assert all(said[name] is True for name in ("moved", "picked", "zoomed", "panned", "followed", "fitted"))
    assert said["heading"].startswith("vehicle")
    assert (said["strips"], said["playing"], said["paused"]) == (3, "1", "0")
    assert said["ran"] >= 1
    assert (said["seen"], said["unseen"]) == (1, 0)


def test_a_frame_can_be_named_in_the_address(scene: Scene, tmp_path: Path, browser):
    page = save_replay(scene, None, tmp_path / "replay.html")
    probe = "<script>location.hash = 'frame=40'; fromHash();</script></body>"
    page.write_text(page.read_text().replace("</body>", probe))
    dom, console = browser(page, "--dump-dom")
    assert console == []
    assert 'data-frame="40"' in dom


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_films_have_a_frame_a_step(scene: Scene, tmp_path: Path, suffix: str):
    if suffix == ".mp4":
        ffmpeg = pytest.importorskip("imageio_ffmpeg")
    rollout = pretend(scene)
    path = save_video(scene, rollout, tmp_path / f"film{suffix}", fps=20)
    if suffix == ".mp4":
        assert ffmpeg.count_frames_and_secs(str(path))[0] == len(rollout.trajectory.x)
        return
    film = Image.open(path)
    assert film.n_frames == len(rollout.trajectory.x)
    frames = []
    for at in (0, 1, 40):
        film.seek(at)
        frames.append(np.asarray(film.convert("RGB")).astype(int))
    red = np.abs(frames[1] - [211, 32, 47]).sum(-1) < 60
    assert red.any(), "the contact of step 1 has a red outline"
    assert np.abs(frames[0] - frames[2]).max() > 50


@pytest.mark.parametrize(("name", "fps", "match"), [("a.avi", 10, "a .gif or an .mp4"), ("a.gif", 0, "fps")])
def test_films_that_cannot_be(scene: Scene, tmp_path: Path, name: str, fps: int, match: str):
    with pytest.raises(ConfigError, match=match):
        save_video(scene, None, tmp_path / name, fps)
