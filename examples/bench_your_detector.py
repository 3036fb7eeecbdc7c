"""Compare a detector of your own with a baseline: both are trained, measured and attacked in the same way.

python examples/bench_your_detector.py [DATA] [--output results]
"""

import argparse
from pathlib import Path

GRID = """
size_px = 64
limit = 8                                        # number of test images under attack
categories.product = "{product}"
detectors.mine = {{ kind = "{file}:fit" }}
detectors.autoencoder = {{ kind = "autoencoder", steps = {steps} }}
attacks."pgd linf 2/255" = {{ attack = "pgd", eps = "2/255", steps = 10 }}
"""


def fit(context):
    """Make the detector from normal images; it may return anything that advrad.wrap takes."""
    normal = context.normal_images.batch(slice(None))  # (n, 3, 64, 64) in [0, 1]
    mean, std = normal.mean(0), normal.std(0) + 0.02
    return lambda images: ((images - mean) / std).square().mean(1, keepdim=True)  # anomaly maps


if __name__ == "__main__":
    from advrad.benchmark import bench, bench_report, read_grid
    from advrad.demo import write_product

    parser = argparse.ArgumentParser(description="Compare a detector of your own with a baseline.")
    parser.add_argument("data", nargs="?", help="folder of images; a synthetic product in flange by default")
    parser.add_argument("--output", default="results", help="folder for the results")
    parser.add_argument("--steps", type=int, default=300, help="training steps of the baseline")
    arguments = parser.parse_args()
    data, output = Path(arguments.data or write_product("flange", seed=0)).resolve(), Path(arguments.output)
    grid = output.with_suffix(".toml")
    grid.write_text(GRID.format(product=data.name, file=Path(__file__).resolve(), steps=arguments.steps))
    bench(read_grid(grid), data.parent, output)
    print(bench_report(output, output / "report")[0])
