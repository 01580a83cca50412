"""Precision/recall and LOF of many feature rows: time and peak memory.

python benchmarks/metrics.py --rows 100000 --features 512 --measure precision
python benchmarks/metrics.py --rows 100000 --features 512 --measure lof
"""

import argparse
import resource
import time

import numpy as np

from mri_minority.evaluate.density import local_outlier_factor
from mri_minority.evaluate.fidelity import Features, precision_recall


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--measure", choices=("precision", "lof"), required=True)
    args = parser.parse_args()
    rng = np.random.default_rng(0)

    def rows() -> Features:
        # Eight directions that matter and noise in the rest, as features of images have.
        found = rng.standard_normal((args.rows, args.features), dtype=np.float32)
        found[:, :8] *= 20
        return found

    real, fake = rows(), rows()
    begun, worked = time.monotonic(), time.process_time()
    if args.measure == "precision":
        print("precision {:.4f}, recall {:.4f}".format(*precision_recall(real, fake)))
    else:
        print(f"mean LOF {local_outlier_factor(real, fake).mean():.4f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    wall, cpu = time.monotonic() - begun, time.process_time() - worked
    print(f"{args.rows} x {args.features}, {args.measure}: {wall:.0f} s, {cpu:.0f} s of CPU, peak {peak:.2f} GiB")


if __name__ == "__main__":
    main()
