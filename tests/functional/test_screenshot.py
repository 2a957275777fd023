"""The picture in the README: made when asked for, by ``make screenshot``."""

from __future__ import annotations

import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import expect

from feedback_app.settings import Settings
from feedback_app.traffic import Traffic, paced, scenario, send
from tests.services.browser import Tabs
from tests.services.workers import StartWorker

_RATE = 300
_SECONDS = 320
#: A page has few colours; with a palette of them a picture takes a third.
_COLOURS = 128
_MOST_BYTES = 200_000


@pytest.mark.timeout(900)
@pytest.mark.skipif("SCREENSHOT" not in os.environ, reason="no picture is asked for: see make screenshot")
def test_the_dashboard_is_pictured(
    embedded_broker: str, settings: Callable[..., Settings], start_worker: StartWorker, tabs: Tabs
) -> None:
    picture = Path(os.environ["SCREENSHOT"])
    shape = {"partitions": 6, "batch_time_ms": 10_000, "retention_ms": 30_000, "grace_ms": 2_000, "store_items": False}
    one, _ = (start_worker(settings(embedded_broker, **shape)) for _ in range(2))
    page = tabs.open(f"{one.url}/feedback/", viewport={"width": 1240, "height": 900})
    plan = scenario(one.settings, seed=1, agents=200, late_share=0.005, invalid_share=0.005)
    send(one.settings, plan, paced(_RATE, _SECONDS), Traffic(), one.watched(lambda sent: None))
    expect(page.locator("#link")).to_have_text("Live")
    expect(page.locator("#agents tbody tr")).to_have_count(10)
    with Image.open(BytesIO(page.screenshot(full_page=True))) as taken:
        taken.quantize(_COLOURS, dither=Image.Dither.NONE).save(picture, optimize=True)
    assert picture.stat().st_size < _MOST_BYTES
