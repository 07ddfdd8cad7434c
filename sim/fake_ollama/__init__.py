"""A fake Ollama: one script of latencies, chunks and faults, performed by several fronts."""

from sim.fake_ollama.modes import MODES, Mode
from sim.fake_ollama.profiles import PROFILES, Profile, profile_named
from sim.fake_ollama.script import Call, FakeOllama, ModelState

__all__ = [
    "MODES",
    "PROFILES",
    "Call",
    "FakeOllama",
    "Mode",
    "ModelState",
    "Profile",
    "profile_named",
]
