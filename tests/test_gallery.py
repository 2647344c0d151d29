"""docs/TASKS.md shows every task as it is."""

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "scripts" / "gallery.py"


def test_the_gallery_is_up_to_date():
    spec = importlib.util.spec_from_file_location("gallery", SCRIPT)
    gallery = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gallery)
    assert gallery.TARGET.read_text() == gallery.gallery(), "run `python scripts/gallery.py`"
