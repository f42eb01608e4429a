"""Run Lighthouse on the welcome page and every chapter of the built site, for desktop and phone.

Run as ``make lighthouse``, or ``python publish/lighthouse.py [PAGE ...]``. It prints a table and a line for
each score below its limit, and fails if there is one. Other load on the machine only lowers a score, so a
page below a limit is measured twice more and its best performance counts.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from browser import BROWSER, FLAGS, SITE, chapters, missing
from serve import serving

HERE = Path(__file__).parent
LIGHTHOUSE = HERE / "node_modules" / ".bin" / "lighthouse"
LARGEST = 1_000_000  # bytes transferred for the first view
LEAST = {  # scores out of 100
    "desktop": {"performance": 90, "accessibility": 95, "best-practices": 95, "seo": 95},
    "mobile": {"performance": 75, "accessibility": 95, "best-practices": 95, "seo": 95},
}


def measure(address: str, form: str) -> dict[str, int]:
    """Return the scores of a page, and the bytes it transferred."""
    command = [
        str(LIGHTHOUSE),
        address,
        "--quiet",
        "--output=json",
        f"--only-categories={','.join(LEAST[form])}",
    ]
    command += [f"--chrome-flags={' '.join(['--headless=new', *FLAGS])}"]
    command += ["--preset=desktop"] if form == "desktop" else []
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"CHROME_PATH": BROWSER}, timeout=180
    )
    if done.returncode:
        sys.exit(f"lighthouse failed on {address}: {done.stderr.strip()[-500:]}")
    report = json.loads(done.stdout)
    scores = {name: round(100 * (each["score"] or 0)) for name, each in report["categories"].items()}
    return scores | {"bytes": int(report["audits"]["total-byte-weight"]["numericValue"])}


def misses(page: str, form: str, found: dict[str, int]) -> list[str]:
    """Return a line for each score that is too low, and for too many bytes."""
    low = [
        f"{page}, {form}: {name} {found[name]}, expected at least {least}"
        for name, least in LEAST[form].items()
        if found[name] < least
    ]
    if found["bytes"] > LARGEST:
        low.append(
            f"{page}, {form}: {found['bytes']:,} bytes for the first view, expected at most {LARGEST:,}"
        )
    return low


def best_of_three(address: str, page: str, form: str) -> dict[str, int]:
    """Measure a page once, and twice more if it misses a limit; the best performance counts."""
    found = measure(address + page, form)
    if misses(page, form, found):
        again = [measure(address + page, form) for _ in range(2)]
        found["performance"] = max(each["performance"] for each in [found, *again])
    return found


def main(names: list[str]) -> int:
    """Print the table and the misses."""
    if line := missing():
        sys.exit(line)
    if not LIGHTHOUSE.exists():
        sys.exit(f"no Lighthouse: run 'npm ci' in {HERE}, or 'make lighthouse'")
    missed = []
    print(f"{'page':40}{'form':10}{'perf':>6}{'acc':>6}{'best':>6}{'seo':>6}{'kB':>8}")
    with serving(SITE) as address:
        for page in names or ["intro.html", *chapters()]:
            for form in LEAST:
                found = best_of_three(address, page, form)
                missed += misses(page, form, found)
                scores = "".join(f"{found[name]:>6}" for name in LEAST[form])
                print(f"{page:40}{form:10}{scores}{found['bytes'] / 1000:>8.0f}", flush=True)
    for line in missed:
        print(line, file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
