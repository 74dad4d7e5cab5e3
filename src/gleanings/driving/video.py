"""Replay as a film: GIF with Pillow, MP4 with ffmpeg from the extra `video`. Ours."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw

from gleanings.core.errors import ConfigError
from gleanings.driving.scene import Scene, Trajectory
from gleanings.driving.viewer import states_of

_PIXELS = 640  # longer side
_FINER = 2  # drawn larger and reduced, for smooth edges
_COLOURS = ["#000000", "#1769c2", "#2f8f5b", "#8a95a3", "#c2b280"]  # by viewer.states_of
_CONTACT, _OFF_ROAD = "#d3202f", "#f08a00"
_LIGHTS = {1: _CONTACT, 4: _CONTACT, 7: _CONTACT, 3: "#1f9d4d", 6: "#1f9d4d"}


def save_video(scene: Scene, rollout: Any, path: str | Path, fps: int = 10) -> Path:
    """Write a film of a rollout (a `Rollout` with trajectory, a `Trajectory`, or None for the log); returns its path.

    The suffix chooses: .gif or .mp4. fps: frames a second, one a step. ConfigError: another suffix, fps out of
    [1, 50], or .mp4 without imageio-ffmpeg.
    """
    out = Path(path)
    if out.suffix not in (".gif", ".mp4"):
        raise ConfigError(f"{out}: a film is a .gif or an .mp4")
    if not 1 <= fps <= 50:
        raise ConfigError(f"fps must lie in [1, 50], got {fps}")
    out.parent.mkdir(parents=True, exist_ok=True)
    frames = _Film(scene, rollout).frames()
    if out.suffix == ".gif":
        first, *rest = (frame.quantize(64) for frame in frames)
        first.save(out, save_all=True, append_images=rest, duration=round(1000 / fps), loop=0)
    else:
        _write_mp4(out, list(frames), fps)
    return out


def draw_frame(
    scene: Scene, now: Trajectory, step: Any, controlled: Bool[np.ndarray, " N"], span: float = 100.0
) -> UInt8[np.ndarray, "640 640 3"]:
    """RGB picture of the square of `span` metres around the first controlled object, else around the middle of the log.

    now: one row [N] of a trajectory, at state index `step`.
    """
    row = Trajectory(*(np.asarray(field)[None] for field in now))
    film = _Film(scene, SimpleNamespace(trajectory=row, first=int(step), controlled=controlled))
    shown = row.valid & controlled
    x, y = (
        field[shown] if shown.any() else np.asarray(log)[scene.log.valid].mean(keepdims=True)
        for field, log in ((row.x, scene.log.x), (row.y, scene.log.y))
    )
    film.look_at(float(x[0]), float(y[0]), span)
    return np.asarray(next(film.frames()))


def _write_mp4(out: Path, frames: list[Image.Image], fps: int) -> None:
    try:
        import imageio_ffmpeg
    except ImportError:
        raise ConfigError("an .mp4 needs ffmpeg: pip install 'gleanings[video]', or write a .gif") from None
    writer = imageio_ffmpeg.write_frames(str(out), frames[0].size, fps=fps, macro_block_size=2)
    writer.send(None)
    for frame in frames:
        writer.send(frame.tobytes())
    writer.close()


class _Film:
    """The frames of a rollout, drawn over one picture of the map."""

    def __init__(self, scene: Scene, rollout: Any) -> None:
        shown = scene.log if rollout is None else rollout
        self.scene = scene
        trajectory = shown if isinstance(shown, Trajectory) else shown.trajectory
        if trajectory is None:
            raise ConfigError("the rollout has no trajectory to show; run it with record='pose'")
        self.trajectory = Trajectory(*map(np.asarray, trajectory))
        self.states = states_of(scene, shown)
        self.first = int(getattr(shown, "first", 0))
        self.events = {
            colour: np.asarray(metrics[name].value) & np.asarray(metrics[name].mask)
            for name, colour in (("off_road", _OFF_ROAD), ("collision", _CONTACT))
            if name in (metrics := getattr(shown, "metrics", None) or {})
        }
        self._frame_bounds()

    def _frame_bounds(self) -> None:
        seen = self.states > 0
        x, y = (field[seen] if seen.any() else np.zeros(1) for field in (self.trajectory.x, self.trajectory.y))
        self.low = np.array([x.min(), y.min()], np.float64) - 12.0
        extent = np.array([x.max(), y.max()], np.float64) + 12.0 - self.low
        self.scale = _PIXELS * _FINER / extent.max()
        # Video codecs want even sides.
        sides = 2 * np.ceil(extent * self.scale / _FINER / 2).astype(int) * _FINER
        self.size: tuple[int, int] = (int(sides[0]), int(sides[1]))

    def look_at(self, x: float, y: float, span: float) -> None:
        """Frame a square of `span` metres around a point."""
        self.low = np.array([x, y]) - span / 2
        self.scale = _PIXELS * _FINER / span
        self.size = (_PIXELS * _FINER, _PIXELS * _FINER)

    def place(self, x: Float[np.ndarray, "..."], y: Float[np.ndarray, "..."]) -> Float[np.ndarray, "... 2"]:
        """Pixels of local metres."""
        right = (np.asarray(x, np.float64) - self.low[0]) * self.scale
        down = self.size[1] - (np.asarray(y, np.float64) - self.low[1]) * self.scale
        return np.stack([right, down], axis=-1)

    def frames(self) -> Iterator[Image.Image]:
        """One RGB picture a step."""
        ground = self._map()
        for step in range(len(self.states)):
            picture = ground.copy()
            pen = ImageDraw.Draw(picture)
            self._lights(pen, self.first + step)
            for slot in np.flatnonzero(self.states[step]):
                self._box(pen, step, int(slot))
            yield picture.resize((self.size[0] // _FINER, self.size[1] // _FINER), Image.Resampling.BOX)

    def _map(self) -> Image.Image:
        picture = Image.new("RGB", self.size, "#f7f8fa")
        pen = ImageDraw.Draw(picture)
        for lines, colour, metres in ((self.scene.lanes, "#e4e9ee", 3.6), (self.scene.edges, "#4b5866", 0.3)):
            width = max(_FINER, round(metres * self.scale))
            there = np.isfinite(np.asarray(lines.z))
            ax, ay, dx, dy = (np.asarray(field, np.float64)[there] for field in lines[:4])
            for start, end in zip(self.place(ax, ay), self.place(ax + dx, ay + dy), strict=True):
                pen.line([tuple(start), tuple(end)], fill=colour, width=width)
        return picture

    def _lights(self, pen: ImageDraw.ImageDraw, step: int) -> None:
        lights = self.scene.lights
        at = min(step, len(lights.state) - 1)
        for slot in np.flatnonzero(np.asarray(lights.exists)):
            side = 1.7 * np.array([-np.sin(lights.yaw[slot]), np.cos(lights.yaw[slot])])
            x, y = lights.x[slot] + side[0] * np.array([-1, 1]), lights.y[slot] + side[1] * np.array([-1, 1])
            colour = _LIGHTS.get(int(lights.state[at, slot]), "#e0a800")
            pen.line([tuple(point) for point in self.place(x, y)], fill=colour, width=2 * _FINER)

    def _box(self, pen: ImageDraw.ImageDraw, step: int, slot: int) -> None:
        way, objects = self.trajectory, self.scene.objects
        cos, sin = np.cos(way.yaw[step, slot]), np.sin(way.yaw[step, slot])
        along = 0.5 * float(objects.length[slot]) * np.array([1, 1, -1, -1])
        across = 0.5 * float(objects.width[slot]) * np.array([1, -1, -1, 1])
        x = way.x[step, slot] + along * cos - across * sin
        y = way.y[step, slot] + along * sin + across * cos
        outline = [colour for colour, event in self.events.items() if step and event[step - 1, slot]]
        fill = _COLOURS[self.states[step, slot]]
        pen.polygon([tuple(corner) for corner in self.place(x, y)], fill, outline[-1] if outline else fill, 2 * _FINER)
