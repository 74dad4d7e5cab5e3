"""The mirror image of a scene: left and right exchanged, and everything in it measures the same. NumPy. Source: ours.

Cells of the grids are mirrored with what they list, which is what building them anew would find.
"""

import numpy as np
from jaxtyping import Float, Shaped

from gleanings.driving.scene import CELL_M, STEP_M, Edges, Grid, Ground, Raster, Road, Scene, Trajectory

_EDGE = 2  # kind of the road edge in `Scene.road`


def mirror_scene(scene: Scene) -> Scene:
    """The scene with y turned into -y; road edges run the other way, so that the drivable side stays on their left.

    Where a side is kept by traffic, it changes too. Names and the world coordinates of `origin` stay.
    """
    log, lanes, lights, goals = scene.log, scene.lanes, scene.lights, scene.goals
    return scene._replace(
        log=Trajectory(log.x, _minus(log.y), log.z, _turned(log.yaw), log.vx, _minus(log.vy), log.valid),
        edges=_edges(scene.edges),
        grid=_grid(scene.grid),
        lanes=lanes._replace(ay=_minus(lanes.ay), dy=_minus(lanes.dy)),
        lane_grid=_grid(scene.lane_grid),
        lights=lights._replace(y=_minus(lights.y), yaw=_turned(lights.yaw)),
        paths=scene.paths._replace(y=_minus(scene.paths.y)),
        goals=goals._replace(y=_minus(goals.y)),
        ground=Ground(*(_rows(field, scene.grid) for field in scene.ground)),
        road=_road(scene.road),
        raster=_raster(scene.raster),
    )


def _minus(value: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """0 stays +0, as in padding."""
    return np.float32(0) - value


def _turned(yaw: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
    """In (-pi, pi]."""
    return np.where(yaw >= np.float32(np.pi), yaw, _minus(yaw))


def _edges(edges: Edges) -> Edges:
    ends = (edges.ax + edges.dx, _minus(edges.ay + edges.dy))
    normals = (edges.nbx, _minus(edges.nby), edges.nax, _minus(edges.nay))
    return Edges(*ends, _minus(edges.dx), edges.dy, edges.inv_l2, edges.z, *normals)


def _road(road: Road) -> Road:
    back = road.kind == _EDGE
    dx, dy = np.where(back, _minus(road.dx), road.dx), np.where(back, road.dy, _minus(road.dy))
    return road._replace(y=_minus(road.y), dx=dx, dy=dy)


def _grid(grid: Grid) -> Grid:
    top = grid.y0 + np.float32(CELL_M) * grid.ny.astype(np.float32)
    return grid._replace(y0=np.float32(-top), start=_rows(grid.start, grid), far=_rows(grid.far, grid))


def _rows(cells: Shaped[np.ndarray, " C"], grid: Grid) -> Shaped[np.ndarray, " C"]:
    """Values of the cells with the rows of the grid from the last to the first; what stands behind stays."""
    nx, ny = int(grid.nx), int(grid.ny)
    return np.concatenate([cells[: nx * ny].reshape(ny, nx)[::-1].ravel(), cells[nx * ny :]])


def _raster(raster: Raster) -> Raster:
    if not raster.value.size:
        return raster
    top = raster.y0 + np.float32(STEP_M * (len(raster.value) - 1))
    return raster._replace(y0=np.float32(-top), value=raster.value[::-1].copy())
