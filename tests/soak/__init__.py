"""`make soak`: what needs many trials or hours. It prints figures and is no part of CI."""

from __future__ import annotations

from tests.server import ROOT

FOLDER = ROOT / "build" / "trials"
