"Draw nbs/images/house.png from the modules' own imports: `python .ci/house.py`."
import ast
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
OWNS = {
    "core": "config · paths · writes · runs", "video": "probe, read, write", "simulation": "a cohort of drawn calves",
    "manifest": "workbook → events", "cameras": "events → camera, file, offset", "extraction": "events → clips",
    "splits": "bouts, splits, leaks", "inputs": "what the model sees", "metrics": "figures with intervals", "planning": "what n can show", "model": "backbones, heads",
    "train": "the loop, its guards", "eval": "reports of one run", "calibration": "thresholds, temperature",
    "confounds": "behaviour or camera?", "experiments": "launcher, index", "cli": "one command",
}
FLOORS = [["cli"], ["experiments"], ["train", "eval", "calibration", "confounds"], ["model", "", "planning"], ["inputs", "", "metrics"],
          ["", "extraction", "splits"], ["", "cameras", ""], ["simulation", "", "manifest"], ["", "video", ""], ["core"]]


def imports(name: str) -> set[str]:
    tree = ast.parse((ROOT / "crosssuck" / f"{name}.py").read_text(encoding="utf-8"))
    return {n.module.split(".")[-1] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level == 1 and n.module} & set(OWNS)


def notebook(name: str) -> str:
    return next((p.stem.split("_")[0] for p in sorted((ROOT / "nbs").glob("*.ipynb")) if p.stem.split("_", 1)[-1] == name), "")


def main() -> None:
    place = {m: ((i + 0.5) / len(row) * 9.6, -j) for j, row in enumerate(reversed(FLOORS[::-1])) for i, m in enumerate(row) if m}
    figure, axes = plt.subplots(figsize=(10.5, 8.2))
    for name, (x, y) in place.items():
        if name == "cli":
            continue
        for other in sorted(imports(name) - {"core"}):
            to = place[other]
            if name == "experiments" and to[1] < -2:
                continue
            axes.annotate("", xy=(to[0], to[1] + 0.29), xytext=(x, y - 0.29), arrowprops={"arrowstyle": "-|>", "color": "#9aa5b1", "lw": 1, "shrinkA": 0, "shrinkB": 0}, zorder=1)
    for name, (x, y) in place.items():
        axes.text(x, y + 0.09, f"{notebook(name)}  {name}", ha="center", va="center", fontsize=11, weight="bold", color="#12324f", zorder=3)
        axes.text(x, y - 0.14, OWNS[name], ha="center", va="center", fontsize=8.5, color="#444", zorder=3)
        axes.add_patch(plt.matplotlib.patches.FancyBboxPatch((x - 1.08, y - 0.26), 2.16, 0.52, boxstyle="round,pad=0.02,rounding_size=0.06", fc="#f3f7fb", ec="#7d93a8", zorder=2))
    axes.text(0.02, -9.55, "An arrow points from a stage to what it uses. Everything uses core; experiments and cli use all of it.", fontsize=9, color="#444")
    axes.set(xlim=(-0.1, 9.7), ylim=(-9.7, 0.5))
    axes.axis("off")
    (ROOT / "nbs" / "images").mkdir(exist_ok=True)
    figure.savefig(ROOT / "nbs" / "images" / "house.png", dpi=100, bbox_inches="tight")


if __name__ == "__main__":
    main()
