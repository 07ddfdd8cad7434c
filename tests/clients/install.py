"""Installs what the tests with real clients need: `python -m tests.clients.install`.

Python's clients into environments of their own, Node's by npm from `node/package.json`, both into
a cache folder (ONESTREAM_CLIENTS, default ~/.cache/onestream-clients); nginx, Caddy, HAProxy and
Chromium from Debian, where it may. What is not available is reported and left out: its tests are
skipped.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.clients.support import CACHE, HERE

# Package of Debian by the program that it brings.
DEBIAN = {
    "nginx": "nginx-light",
    "caddy": "caddy",
    "haproxy": "haproxy",
    "curl": "curl",
    "chromium": "chromium",
}


def ran(*command: str, folder: Path | None = None) -> bool:
    """Whether the command ended well; what it said otherwise is printed."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        print(f"{' '.join(command)}: exit {done.returncode}\n{done.stderr[-1000:]}")
    return done.returncode == 0


def is_newest(mark: Path, source: Path) -> bool:
    return mark.exists() and mark.read_bytes() == source.read_bytes()


def install_python(requirements: Path) -> None:
    """One environment for a file of requirements, made again when the file has changed."""
    folder = CACHE / requirements.stem
    mark = folder / "installed.txt"
    if is_newest(mark, requirements):
        print(f"{requirements.stem}: is there")
        return
    # `uv run` sets where uv is. Outside the checkout: inside, uv would add the project's packages.
    uv = os.environ.get("UV", "uv")
    python = str(folder / "bin/python")
    is_there = ran(uv, "venv", "--clear", "--python", sys.executable, str(folder), folder=CACHE)
    is_there = is_there and ran(
        *(uv, "pip", "install", "--python", python, "-r", str(requirements)), folder=CACHE
    )
    if is_there:
        shutil.copyfile(requirements, mark)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{requirements.stem}: {'installed' if is_there else 'LEFT OUT'}")


def install_node() -> None:
    source, folder = HERE / "node/package.json", CACHE / "node"
    mark = folder / "installed.json"
    if not shutil.which("npm"):
        print("clients of Node: LEFT OUT, there is no npm")
        return
    if is_newest(mark, source):
        print("clients of Node: are there")
        return
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, folder / "package.json")
    if ran("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", folder=folder):
        shutil.copyfile(source, mark)
        print("clients of Node: installed")
    else:
        shutil.rmtree(folder, ignore_errors=True)
        print("clients of Node: LEFT OUT")


def install_debian() -> None:
    missing = [package for program, package in DEBIAN.items() if not shutil.which(program)]
    if not missing:
        print("programs of Debian: are there")
    elif os.name != "posix" or os.geteuid() != 0 or not shutil.which("apt-get"):
        print(f"{', '.join(missing)}: LEFT OUT, only root of a Debian may install them")
    else:
        command = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-q")
        is_there = ran("apt-get", "update", "-qq") and ran(
            *command, "--no-install-recommends", *missing
        )
        print(f"{', '.join(missing)}: {'installed' if is_there else 'LEFT OUT'}")


def main() -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    for requirements in sorted((HERE / "python").glob("*.txt")):
        install_python(requirements)
    install_node()
    install_debian()
    for program in ("node", "java"):
        if not shutil.which(program):
            print(f"{program}: is not on this machine, its clients are LEFT OUT")


if __name__ == "__main__":
    main()
