"""A picture of the service's page: pictures of the demonstration's product are inspected in a browser.

    advrad demo
    python performance/screenshots.py demo-run -o docs/images/service.png

Starts the service on the model, sends a few test images through the page, and takes the picture while a defective one
and its anomaly map are shown. Needs Chromium and the extra ``test``. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from advrad.errors import ConfigError
from advrad.utils.files import atomic_path

#: Images that are inspected, as kind of defect and number; the first one is shown.
SHOWN = (("scratch", 0), ("good", 1), ("dent", 2), ("good", 3), ("rust", 4))
WIDTH_PX, HEIGHT_PX = 1280, 860
_MOST_BYTES, _COLOURS = 200_000, (256, 128, 64, 32)
_WAIT_MS = 120_000


@contextmanager
def running(run: Path, data: Path, product: str) -> Iterator[str]:
    """The service on a model, as a process of its own; gives its address."""
    command = [sys.executable, "-c", "from advrad.cli.main import main; main()", "serve"]
    options = [f"{product}={run}", "--data", str(data), "--port", "0", "--deadline-s", "120"]
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            if process.stdout is None or not (line := process.stdout.readline()):
                raise ConfigError(f"{run}: the service does not start; see 'advrad serve {run}'")
            yield line.split()[-1]
        finally:
            process.terminate()


def chosen(product: Path) -> list[Path]:
    """The test images that are inspected, the shown one last."""
    found = []
    for kind, number in reversed(SHOWN):
        images = sorted((product / "test" / kind).glob("*.png"))
        if len(images) <= number:
            raise ConfigError(f"{product}: holds no test images of the kind {kind}; make it by 'advrad demo'")
        found.append(images[number])
    return found


def look(browser: Browser, address: str, images: Sequence[Path]) -> bytes:
    """Inspect the images on the page, and take the picture, PNG."""
    page = browser.new_page(viewport={"width": WIDTH_PX, "height": HEIGHT_PX}, color_scheme="light")
    page.set_default_timeout(_WAIT_MS)
    page.goto(address)
    for number, image in enumerate(images, 1):
        page.set_input_files("#files", {"name": image.name, "mimeType": "image/png", "buffer": image.read_bytes()})
        page.locator("#summary", has_text=f"{number} picture").wait_for()
    page.locator("#result .histogram").wait_for()
    _until(page, "[...document.querySelectorAll('.frame img')].every((image) => image.naturalWidth > 0)")
    page.get_by_role("button", name="Anomaly map").click()
    return page.screenshot()


def _until(page: Page, expression: str) -> None:
    for _ in range(_WAIT_MS // 100):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise ConfigError("the page does not show its images")


def save(path: Path, png: bytes) -> int:
    """Write a picture below 200 kB, with as many colours as that allows; returns its size in bytes."""
    image = Image.open(io.BytesIO(png)).convert("RGB")
    for colours in _COLOURS:
        buffer = io.BytesIO()
        image.quantize(colours, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
        if buffer.tell() < _MOST_BYTES:
            with atomic_path(path) as temporary:
                temporary.write_bytes(buffer.getvalue())
            return buffer.tell()
    raise ConfigError(f"{path}: the picture is larger than {_MOST_BYTES // 1000} kB")


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Take the picture and print its size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of 'advrad demo'")
    parser.add_argument("-o", "--output", type=Path, default=Path("service.png"), help="PNG to write")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="Chromium's program")
    asked = parser.parse_args(arguments)
    images = chosen(asked.run / "flange")
    with (
        tempfile.TemporaryDirectory() as data,
        running(asked.run, Path(data), "flange") as address,
        sync_playwright() as playwright,
    ):
        options = ["--headless", "--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=asked.chromium, args=options)
        png = look(browser, address, images)
        browser.close()
    found = {"images": len(images), "bytes": save(asked.output, png)}
    print(json.dumps(found))
    return found


if __name__ == "__main__":
    main()
